/* The moving parts of a report. `data` is what page_data in report.py returns; the counts are those
   of model/measures/detection.py, whatever the threshold. */
const known = document.querySelector("#figure-far_per_hour .interval").textContent;
let level = data.start;
for (const video of videos) {
  video.abnormal = (video.events || []).reduce((sum, [start, end]) => sum + end - start, 0);
}

/* --- Counting ------------------------------------------------------------------------------- */

/** Returns a video's alarms at a threshold, and what of them and of its events is wrong. */
function judge(video, level) {
  const { points, events } = video;
  const alarms = [];
  for (let i = 0; i < points.length; i++) {
    if (points[i] < level) continue;
    const first = i;
    while (i < points.length && points[i] >= level) i++;
    const [start, end] = [first * stride, Math.min(i * stride, video.frames)];
    const common = (events || []).reduce((sum, [a, b]) => sum + shared(a, b, start, end), 0);
    alarms.push({ start, end, common, isFalse: events !== null && common === 0 });
  }
  const isMissed = ([a, b]) => !alarms.some(({ start, end }) => shared(a, b, start, end) > 0);
  const missed = (events || []).filter(isMissed);
  // frames on the wrong side of the threshold
  const wrong = alarms.reduce((sum, a) => sum + a.end - a.start - 2 * a.common, video.abnormal);
  return {
    alarms, missed, falseAlarms: alarms.filter((alarm) => alarm.isFalse).length,
    wrong: events === null ? 0 : wrong / video.frames,
  };
}

function shared(a, b, c, d) {
  return Math.max(0, Math.min(b, d) - Math.max(a, c));
}

/** Judges all videos at a threshold, and returns the sums of those whose frames are labelled. */
function judgeAll(level) {
  const total = { falseAlarms: 0, timedFalseAlarms: 0, hours: 0, missed: 0, events: 0 };
  for (const video of videos) {
    video.judged = judge(video, level);
    if (video.events === null) continue;
    total.falseAlarms += video.judged.falseAlarms;
    total.missed += video.judged.missed.length;
    total.events += video.events.length;
    if (video.rate > 0) {
      total.timedFalseAlarms += video.judged.falseAlarms;
      total.hours += (video.frames - video.abnormal) / video.rate / 3600;
    }
  }
  return total;
}

/* --- Cards ---------------------------------------------------------------------------------- */

function draw(video) {
  const curve = curvePath(video, video.points);
  video.threshold = svg("path", { class: "threshold" });
  video.lane = svg("g", {}); // of the alarms, below the curve
  drawPlot(video, 112,
    svg("path", { class: "area", d: `${curve}V100H0Z` }), svg("path", { class: "curve", d: curve }),
    frameOfPlot(), video.threshold, video.lane);
  showWhy(video);
}

/** Shows in a card what moves with the threshold. */
function refresh(video) {
  if (!video.lane) draw(video);
  const { alarms, missed } = video.judged;
  video.threshold.setAttribute("d", `M0 ${down(thresholds[level])}H${WIDTH}`);
  const bars = alarms.map(({ start, end, isFalse }) =>
    span(video, [start, end], { class: isFalse ? "false" : "hit", y: 103, height: 8 }));
  video.lane.replaceChildren(...bars);
  video.events_drawn.forEach((node, index) =>
    node.classList.toggle("missed", missed.includes(video.events[index])));
  const shown = alarms.slice(0, 4).flatMap(({ start, end, isFalse }, index) => [
    index ? "; " : "", `${when(video, start)} to ${when(video, end)}`,
    ...(isFalse ? [element("span", { className: "bad" }, " (false)")] : []),
  ]);
  const more = alarms.length > 4 ? `; ${alarms.length - 4} more` : "";
  video.card.querySelector(".alarms").replaceChildren(
    alarms.length ? "Alarms: " : "No alarm", ...shown, more);
}

function verdict(video) {
  const { falseAlarms, missed } = video.judged;
  const told = `${falseAlarms} ${missed.length}`;
  if (video.told === told) return; // a thousand cards, and the slider moves
  video.told = told;
  const bad = (text) => element("span", { className: "bad" }, text);
  const parts = [];
  if (video.events === null) parts.push(element("span", {}, video.frames ? "frames not labelled" : "frames not counted"));
  if (falseAlarms) parts.push(bad(plural(falseAlarms, "false alarm")));
  if (missed.length) parts.push(bad(`${missed.length} of ${plural(video.events.length, "event")} missed`));
  if (!parts.length) parts.push(element("span", {}, video.events.length ? "events found" : "quiet"));
  video.card.querySelector(".verdict").replaceChildren(...parts);
}

/* --- ROC and precision-recall ----------------------------------------------------------------- */

const counts = countFrames(data);
const planeWords = {
  roc: ([x, y]) => `${percent(y)} of the abnormal frames are alarms, and ${percent(x)} of the normal ones.`,
  pr: ([x, y]) => Number.isNaN(y) ? "No frame is an alarm." :
    `${percent(y)} of the alarms' frames are abnormal, and ${percent(x)} of the abnormal frames are alarms.`,
};

function drawCurves() {
  for (const plane of planes) {
    plane.caption = element("span", {});
    const dot = svg("circle", { class: "dot", r: 3 });
    if (drawPlane(plane, [counts], plane.caption, dot)) plane.dot = dot;
  }
}

function markThreshold() {
  for (const { box, dot, caption, point } of planes.filter((plane) => plane.dot)) {
    const [x, y] = point(counts, level);
    dot.setAttribute("cx", 100 * x);
    dot.setAttribute("cy", 100 - 100 * (Number.isNaN(y) ? 1 : y));
    caption.textContent = `At ${thresholds[level]}: ${planeWords[box.id]([x, y])}`;
  }
}

/* --- Threshold, order and choice ---------------------------------------------------------------- */

function setThreshold(next) {
  level = next;
  const total = judgeAll(level);
  const value = String(thresholds[level]);
  byId("threshold").value = level;
  byId("threshold").setAttribute("aria-valuetext", value);
  byId("threshold-value").textContent = value;
  const rate = total.timedFalseAlarms / total.hours;
  const anHour = rate.toFixed(rate < 100 ? 1 : 0);
  byId("totals").textContent =
    `${plural(total.falseAlarms, "false alarm")}${total.hours ? `, ${anHour} an hour` : ""}; ` +
    `${total.missed} of ${plural(total.events, "labelled event")} missed`;
  if (total.hours) {
    const figure = byId("figure-far_per_hour");
    figure.querySelector("strong").textContent = anHour;
    // the interval is known where the slider starts only
    figure.querySelector(".interval").textContent = level === data.start ? known : `at ${value}`;
  }
  markThreshold();
  videos.forEach(verdict);
  visible.forEach(refresh);
}

const mistakes = ({ judged }) => judged.falseAlarms + judged.missed.length;
const orders = {
  worst: (a, b) => mistakes(b) - mistakes(a) || b.judged.wrong - a.judged.wrong,
  falseAlarms: (a, b) => b.judged.falseAlarms - a.judged.falseAlarms,
  missed: (a, b) => b.judged.missed.length - a.judged.missed.length,
  category: byCategory,
  name: byName,
};
const kinds = {
  "": () => true,
  falseAlarms: ({ judged }) => judged.falseAlarms > 0,
  missed: ({ judged }) => judged.missed.length > 0,
  wrong: ({ card }) => Boolean(card.dataset.wrong),
  far: ({ why }) => Boolean(why.far),
};

byId("threshold").max = thresholds.length - 1;
byId("threshold").addEventListener("input", ({ target }) => setThreshold(Number(target.value)));
byId("threshold").addEventListener("change", arrange);
byId("reset").addEventListener("click", () => (setThreshold(data.start), arrange()));
drawCurves();
setThreshold(level);
start();
