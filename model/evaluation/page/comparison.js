/* The moving parts of a page of several runs. `data` is what comparison_data in comparison.py
   returns: a video's `auc` and `wrong` hold a value for each run, or null. */
const { runs } = data;

for (const video of videos) {
  // of the AUC where the video has frames of both kinds, of the frames on the right side elsewhere
  video.isRanked = video.auc.every((auc) => auc !== null);
  const better = video.isRanked ? video.auc : video.wrong.map((share) => (share === null ? null : 1 - share));
  video.gains = better[0] === null ? [] : better.slice(1).map((value) => value - better[0]);
  video.most = Math.max(0, ...video.gains);
  video.least = Math.min(0, ...video.gains);
}

const signed = (value, digits) => (value < 0 ? "" : "+") + value.toFixed(digits);
const gainWords = (video, gain) => video.isRanked ? `AUC ${signed(gain, 3)}` :
  `wrong frames ${signed(-100 * gain, 1)} %`;

function verdict(video) {
  const largest = video.most >= -video.least ? video.most : video.least;
  const parts = video.gains.length === 0 ? [element("span", {}, video.frames ? "frames not labelled" : "frames not counted")] :
    largest === 0 ? [element("span", {}, "no difference")] :
      [element("span", { className: largest < 0 ? "bad" : "good" },
        `${gainWords(video, largest)}${runs.length > 2 ? `, ${runs[video.gains.indexOf(largest) + 1].name}` : ""}`)];
  video.card.querySelector(".verdict").replaceChildren(...parts);
}

/** Returns the table of a card: each run's AUC and share of wrong frames. */
function tableOf(video) {
  const cell = (value, base, digits, unit) => value === null ? "none" :
    `${value.toFixed(digits)}${unit}${base === null ? "" : ` (${signed(value - base, digits)})`}`;
  const number = (text) => element("td", { className: "number" }, text);
  const head = (text, className) => element("th", { scope: "col", className }, text);
  const rows = runs.map(({ name }, index) => element("tr", {},
    element("th", { scope: "row" }, element("span", { className: `key ${classOf(index)}` }, name)),
    number(cell(video.auc[index], index ? video.auc[0] : null, 3, "")),
    number(video.wrong[index] === null ? "none" :
      cell(100 * video.wrong[index], index ? 100 * video.wrong[0] : null, 1, " %"))));
  return element("table", {},
    element("thead", {}, element("tr", {}, head("run", ""), head("AUC", "number"),
      head(`wrong at ${data.threshold}`, "number"))),
    element("tbody", {}, ...rows));
}

function draw(video) {
  const curves = video.curves.map((points, index) =>
    svg("path", { class: `curve ${classOf(index)}`, d: curvePath(video, points) }));
  // the first lies above the others
  drawPlot(video, 100, ...curves.reverse(), frameOfPlot());
  video.card.querySelector(".each").replaceChildren(tableOf(video));
}

function refresh(video) {
  if (!video.cursor) draw(video);
}

const orders = {
  difference: (a, b) => Math.max(b.most, -b.least) - Math.max(a.most, -a.least),
  better: (a, b) => b.most - a.most,
  worse: (a, b) => a.least - b.least,
  category: byCategory,
  name: byName,
};
const kinds = {
  "": () => true,
  better: ({ most }) => most > 0,
  worse: ({ least }) => least < 0,
  events: ({ events }) => events !== null && events.length > 0,
  normal: ({ events }) => events !== null && events.length === 0,
};

const everyRun = runs.map(countFrames);
for (const plane of planes) {
  const names = runs.flatMap(({ name }, index) => [element("span", { className: `key ${classOf(index)}` }, name), " "]);
  drawPlane(plane, everyRun, element("span", { className: "legend" }, ...names));
}
videos.forEach(verdict);
start();
