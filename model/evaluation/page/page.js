"use strict";
/* The page's moving parts. `data` is what page_data in report.py returns: a score is the number of
   the highest threshold that it reaches, so that the counts here are those of
   model/measures/detection.py, whatever the threshold. */
const data = JSON.parse(document.getElementById("data").textContent);
const { thresholds, stride } = data;
const byId = (id) => document.getElementById(id);
const list = byId("cards");
const videos = readVideos();
const visible = new Set();
const known = document.querySelector("#figure-far_per_hour .interval").textContent;
let level = data.start;

function readVideos() {
  const text = atob(data.points);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const cards = [...list.children];
  let first = 0;
  return data.videos.map((video, index) => {
    const points = bytes.subarray(first, (first += Math.ceil(video.frames / stride)));
    const abnormal = (video.events || []).reduce((sum, [start, end]) => sum + end - start, 0);
    return { ...video, points, abnormal, card: cards[index], place: points.indexOf(max(points)) };
  });
}

function max(points) {
  let highest = 0;
  for (const point of points) if (point > highest) highest = point;
  return highest;
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

/* --- Words ---------------------------------------------------------------------------------- */

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  if (tenths < 600) return `${seconds.toFixed(2)} s`;
  const [minutes, rest] = [Math.floor(tenths / 600) % 60, ((tenths % 600) / 10).toFixed(1)];
  const hours = Math.floor(tenths / 36000);
  const ahead = hours ? `${hours}:${String(minutes).padStart(2, "0")}` : `${minutes}`;
  return `${ahead}:${rest.padStart(4, "0")}`;
}

/** Returns when a frame is shown; its number where the frame rate is not known. */
function when(video, frame) {
  return video.rate > 0 ? clock(frame / video.rate) : `frame ${frame}`;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/* --- Drawing -------------------------------------------------------------------------------- */

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  node.append(...children);
  return node;
}

function element(name, attributes, ...children) {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
}

const WIDTH = 1000; // of a score curve, whose height is 100, with a lane for the alarms below
const across = (video, frame) => (frame / video.frames) * WIDTH;
const down = (value) => 100 - 96 * value;

function span(video, [start, end], attributes) {
  const x = across(video, start);
  return svg("rect", { x, width: across(video, end) - x, ...attributes });
}

/** Returns the path of a score curve: of each of at most 1000 columns its lowest and highest. */
function curvePath(video) {
  const { points } = video;
  const size = Math.ceil(points.length / WIDTH);
  let [path, last] = ["", -1];
  for (let i = 0; i < points.length; i += size) {
    const column = points.subarray(i, i + size);
    const [low, high] = [column.reduce((a, b) => Math.min(a, b)), max(column)];
    if (low === last && high === last) continue;
    const x = across(video, i * stride).toFixed(2);
    path += path ? `H${x}` : `M${x} ${down(thresholds[low]).toFixed(1)}`;
    if (low !== high) path += `V${down(thresholds[low]).toFixed(1)}`;
    path += `V${down(thresholds[high]).toFixed(1)}`;
    last = low === high ? high : -1;
  }
  return `${path}H${WIDTH}`;
}

function draw(video) {
  const curve = curvePath(video);
  const still = [
    ...(video.events || []).map((event) => span(video, event, { class: "event", y: 0, height: 100 })),
    svg("path", { class: "area", d: `${curve}V100H0Z` }),
    svg("path", { class: "curve", d: curve }),
    svg("path", { class: "frame", d: `M0 100H${WIDTH}` }),
  ];
  video.events_drawn = still.slice(0, (video.events || []).length);
  video.threshold = svg("path", { class: "threshold" });
  video.lane = svg("g", {});
  video.cursor = svg("path", { class: "cursor", d: "" });
  const box = { viewBox: `0 0 ${WIDTH} 112`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const moving = [video.threshold, video.lane, video.cursor];
  video.card.querySelector(".plot").append(svg("svg", box, ...still, ...moving));
  video.card.querySelector(".from").textContent = when(video, 0);
  video.card.querySelector(".to").textContent = when(video, video.frames);
  read(video, video.place, "peak at ");
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
  if (video.events === null) parts.push(element("span", {}, "frames not labelled"));
  if (falseAlarms) parts.push(bad(plural(falseAlarms, "false alarm")));
  if (missed.length) parts.push(bad(`${missed.length} of ${plural(video.events.length, "event")} missed`));
  if (!parts.length) parts.push(element("span", {}, video.events.length ? "events found" : "quiet"));
  video.card.querySelector(".verdict").replaceChildren(...parts);
}

/* --- ROC and precision-recall ----------------------------------------------------------------- */

const fromAbove = (counts) => counts.reduceRight((sums, n) => [n + (sums[0] || 0), ...sums], []);
const found = fromAbove(data.positives); // abnormal frames that reach each threshold
const alarmed = fromAbove(data.negatives);
const curves = [
  {
    box: byId("roc"), title: "ROC", axes: ["share of normal frames", "share of abnormal frames"],
    point: (i) => [alarmed[i] / alarmed[0], found[i] / found[0]], end: [[0, 0]],
    words: ([x, y]) => `${percent(y)} of the abnormal frames are alarms, and ${percent(x)} of the normal ones.`,
  },
  {
    box: byId("pr"), title: "Precision and recall", axes: ["recall", "precision"],
    point: (i) => [found[i] / found[0], found[i] / (found[i] + alarmed[i])], end: [],
    words: ([x, y]) => Number.isNaN(y) ? "No frame is an alarm." :
      `${percent(y)} of the alarms' frames are abnormal, and ${percent(x)} of the abnormal frames are alarms.`,
  },
];

function drawCurves() {
  for (const curve of curves) {
    curve.caption = element("span", {});
    const caption = element("figcaption", {}, element("b", {}, curve.title), curve.caption);
    if (!found[0] || !alarmed[0]) {
      curve.caption.textContent = "No curve: the labelled frames are all of one kind.";
      curve.box.replaceChildren(caption);
      continue;
    }
    const points = [...thresholds.keys()].map(curve.point).filter(([, y]) => !Number.isNaN(y));
    const path = [...points, ...curve.end].map(([x, y]) => `${100 * x} ${100 - 100 * y}`);
    curve.dot = svg("circle", { class: "dot", r: 3 });
    curve.box.replaceChildren(
      svg("svg", { viewBox: "-10 -2 112 114", "aria-hidden": "true" },
        svg("rect", { class: "frame", width: 100, height: 100 }),
        ...(curve.title === "ROC" ? [svg("path", { class: "chance", d: "M0 100L100 0" })] : []),
        svg("path", { class: "curve", d: `M${path.join("L")}` }), curve.dot,
        svg("text", { x: 50, y: 109, "text-anchor": "middle" }, curve.axes[0]),
        svg("text", { x: -50, y: -4, transform: "rotate(-90)", "text-anchor": "middle" }, curve.axes[1])),
      caption);
  }
}

function markThreshold() {
  for (const { dot, caption, point, words } of curves.filter((curve) => curve.dot)) {
    const [x, y] = point(level);
    dot.setAttribute("cx", 100 * x);
    dot.setAttribute("cy", 100 - 100 * (Number.isNaN(y) ? 1 : y));
    caption.textContent = `At ${thresholds[level]}: ${words([x, y])}`;
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
    // the interval is known at 0.5 only
    figure.querySelector(".interval").textContent = level === data.start ? known : `at ${value}`;
  }
  markThreshold();
  videos.forEach(verdict);
  visible.forEach(refresh);
}

const collator = new Intl.Collator("en", { numeric: true });
const byName = (a, b) => collator.compare(a.name, b.name);
const mistakes = ({ judged }) => judged.falseAlarms + judged.missed.length;
const orders = {
  worst: (a, b) => mistakes(b) - mistakes(a) || b.judged.wrong - a.judged.wrong,
  falseAlarms: (a, b) => b.judged.falseAlarms - a.judged.falseAlarms,
  missed: (a, b) => b.judged.missed.length - a.judged.missed.length,
  category: (a, b) => collator.compare(a.card.dataset.category, b.card.dataset.category),
  name: byName,
};
const kinds = {
  "": () => true,
  falseAlarms: ({ judged }) => judged.falseAlarms > 0,
  missed: ({ judged }) => judged.missed.length > 0,
  wrong: ({ card }) => Boolean(card.dataset.wrong),
  far: ({ why }) => Boolean(why.far),
};

function arrange() {
  const order = orders[byId("sort").value];
  const isShown = kinds[byId("show").value];
  const category = byId("category")?.value || "";
  const wanted = byId("name").value.trim().toLowerCase();
  let count = 0;
  for (const video of videos) {
    const { card } = video;
    card.hidden = !(isShown(video) && (!category || card.dataset.category === category) &&
      video.name.toLowerCase().includes(wanted));
    count += !card.hidden;
  }
  list.append(...[...videos].sort((a, b) => order(a, b) || byName(a, b)).map(({ card }) => card));
  byId("shown").textContent = `${count} of ${plural(videos.length, "video")}`;
}

/* --- One curve under the pointer ---------------------------------------------------------------- */

/** Shows time, frame and score of one point of a curve. */
function read(video, place, ahead = "") {
  if (!video.cursor) draw(video);
  video.place = Math.max(0, Math.min(video.points.length - 1, place));
  const frame = video.place * stride;
  const score = thresholds[video.points[video.place]].toFixed(2);
  const time = video.rate > 0 ? `, ${clock(frame / video.rate)}` : "";
  const text = `${ahead}frame ${frame}${time}: ${score}`;
  const x = across(video, frame + stride / 2);
  video.cursor.setAttribute("d", ahead ? "" : `M${x} 0V112`);
  video.card.querySelector(".read").textContent = text;
  const plot = video.card.querySelector(".plot");
  plot.setAttribute("aria-valuenow", frame);
  plot.setAttribute("aria-valuetext", text);
}

function play(video) {
  if (!video.link) return;
  const seconds = (duration) =>
    video.rate > 0 ? (video.place * stride) / video.rate : (duration * video.place) / video.points.length;
  if (!video.player) {
    const player = element("video", { controls: true, playsInline: true, src: video.link });
    player.addEventListener("error", () => {
      const link = element("a", { href: video.link }, "open it");
      player.replaceWith(element("p", { className: "muted" }, "The browser cannot play this video here: ", link, "."));
    });
    player.addEventListener("timeupdate", () => {
      const share = video.rate > 0 ? (player.currentTime * video.rate) / video.frames : player.currentTime / player.duration;
      if (!player.paused) read(video, Math.floor(share * video.points.length));
    });
    video.card.querySelector(".plot").before(player);
    video.player = player;
  }
  const { player } = video;
  const start = () => {
    player.currentTime = seconds(player.duration);
    player.play().catch(() => {}); // the event "error" tells of what cannot be played
  };
  if (player.readyState) start();
  else player.addEventListener("loadedmetadata", start, { once: true });
}

function listen(video) {
  const plot = video.card.querySelector(".plot");
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    read(video, Math.floor(((event.clientX - box.left) / box.width) * video.points.length));
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("click", (event) => {
    follow(event);
    play(video);
  });
  plot.addEventListener("keydown", (event) => {
    const far = Math.ceil(video.points.length / 20);
    const step = event.shiftKey ? far : 1;
    const places = {
      ArrowRight: video.place + step, ArrowUp: video.place + step, PageUp: video.place + far,
      ArrowLeft: video.place - step, ArrowDown: video.place - step, PageDown: video.place - far,
      Home: 0, End: video.points.length,
    };
    if (event.key in places) read(video, places[event.key]);
    else if (event.key === "Enter" || event.key === " ") play(video);
    else return;
    event.preventDefault();
  });
  if (video.link) {
    plot.classList.add("playable");
    plot.setAttribute("aria-label", `${plot.getAttribute("aria-label")}; Enter plays the video`);
  }
}

const ofCard = new Map(videos.map((video) => [video.card, video]));
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    const video = ofCard.get(target);
    if (isIntersecting) visible.add(video), refresh(video);
    else visible.delete(video);
  }
}, { rootMargin: "400px" });

byId("threshold").max = thresholds.length - 1;
byId("threshold").addEventListener("input", ({ target }) => setThreshold(Number(target.value)));
byId("threshold").addEventListener("change", arrange);
byId("reset").addEventListener("click", () => (setThreshold(data.start), arrange()));
byId("choose").addEventListener("input", arrange);
byId("choose").addEventListener("submit", (event) => event.preventDefault());
drawCurves();
setThreshold(level);
arrange();
for (const video of videos) {
  listen(video);
  watcher.observe(video.card);
}
