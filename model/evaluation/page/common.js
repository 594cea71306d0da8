"use strict";
/* What the pages have in common: videos whose curves are drawn as they come into view, read with
   pointer and keys, sorted and chosen. The script of a page follows, and gives `orders`, `kinds`,
   `draw` and `refresh`. `data` comes from model/evaluation/pages.py: a score is the number of the
   highest threshold that it reaches. */
const data = JSON.parse(document.getElementById("data").textContent);
const { thresholds, stride } = data;
const byId = (id) => document.getElementById(id);
const list = byId("cards");
const videos = readVideos();
const visible = new Set();

/** Returns the videos with their points: `curves` holds those of each run, `points` of the first. */
function readVideos() {
  const bytes = decode(data.points);
  const cards = [...list.children];
  const sizes = data.videos.map((video) => Math.ceil(video.frames / stride));
  const ofRun = sizes.reduce((sum, size) => sum + size, 0); // those of the next run follow
  let first = 0;
  return data.videos.map((video, index) => {
    const curves = [];
    for (let run = 0; run < (data.runs || [0]).length; run++) {
      const start = run * ofRun + first;
      curves.push(bytes.subarray(start, start + sizes[index]));
    }
    first += sizes[index];
    const card = cards[index];
    return { ...video, curves, points: curves[0], card, category: card.dataset.category };
  });
}

function decode(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64); // ten times as fast; since 2025
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function max(points) {
  let highest = 0;
  for (const point of points) if (point > highest) highest = point;
  return highest;
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

const WIDTH = 1000; // of a score curve, whose height is 100
const NUM_COLOURS = 6; // of runs, in page.css; further runs get them again, dashed
const classOf = (index) => `run-${index % NUM_COLOURS}${index < NUM_COLOURS ? "" : " again"}`;
const across = (video, frame) => (frame / video.frames) * WIDTH;
const down = (value) => 100 - 96 * value;

function span(video, [start, end], attributes) {
  const x = across(video, start);
  return svg("rect", { x, width: across(video, end) - x, ...attributes });
}

/** Returns the path of a score curve: of each of at most 1000 columns its lowest and highest. */
function curvePath(video, points) {
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

/** Puts a card's drawing into it, `height` high, with the labelled events behind and a cursor. */
function drawPlot(video, height, ...parts) {
  video.events_drawn = (video.events || []).map(
    (event) => span(video, event, { class: "event", y: 0, height: 100 }));
  video.cursor = svg("path", { class: "cursor", d: "" });
  const box = { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  video.card.querySelector(".plot").append(
    svg("svg", box, ...video.events_drawn, ...parts, video.cursor));
  video.card.querySelector(".from").textContent = when(video, 0);
  video.card.querySelector(".to").textContent = when(video, video.frames);
  read(video, video.points.indexOf(max(video.points)), "peak at ");
}

const frameOfPlot = () => svg("path", { class: "frame", d: `M0 100H${WIDTH}` });

/* --- ROC and precision-recall ----------------------------------------------------------------- */

const planes = [
  {
    box: byId("roc"), title: "ROC", axes: ["share of normal frames", "share of abnormal frames"],
    point: ({ found, alarmed }, i) => [alarmed[i] / alarmed[0], found[i] / found[0]],
    end: [[0, 0]], extra: () => [svg("path", { class: "chance", d: "M0 100L100 0" })],
  },
  {
    box: byId("pr"), title: "Precision and recall", axes: ["recall", "precision"],
    point: ({ found, alarmed }, i) => [found[i] / found[0], found[i] / (found[i] + alarmed[i])],
    end: [], extra: () => [],
  },
];
const fromAbove = (counts) => counts.reduceRight((sums, n) => [n + (sums[0] || 0), ...sums], []);

/** Returns how many abnormal frames (found) and normal ones (alarmed) reach each threshold. */
function countFrames({ positives, negatives }) {
  return { found: fromAbove(positives), alarmed: fromAbove(negatives) };
}

/** Draws a curve over all frames for each of `runs`, and returns whether there is any. */
function drawPlane(plane, runs, caption, ...marks) {
  const text = element("figcaption", {}, element("b", {}, plane.title), caption);
  const isKnown = runs[0].found[0] > 0 && runs[0].alarmed[0] > 0;
  plane.box.replaceChildren(text);
  if (!isKnown) {
    caption.textContent = "No curve: the labelled frames are all of one kind.";
    return false;
  }
  const paths = runs.map((run, index) => {
    const points = [...thresholds.keys()].map((i) => plane.point(run, i));
    const known = [...points.filter(([, y]) => !Number.isNaN(y)), ...plane.end];
    const path = known.map(([x, y]) => `${100 * x} ${100 - 100 * y}`).join("L");
    return svg("path", { class: `curve ${classOf(index)}`, d: `M${path}` });
  });
  plane.box.prepend(svg("svg", { viewBox: "-10 -2 112 114", "aria-hidden": "true" },
    svg("rect", { class: "frame", width: 100, height: 100 }), ...plane.extra(), ...paths, ...marks,
    svg("text", { x: 50, y: 109, "text-anchor": "middle" }, plane.axes[0]),
    svg("text", { x: -50, y: -4, transform: "rotate(-90)", "text-anchor": "middle" }, plane.axes[1])));
  return true;
}

/* --- Order and choice ------------------------------------------------------------------------- */

// compared once: comparing texts is what takes long in sorting
const { compare } = new Intl.Collator("en", { numeric: true });
[...videos].sort((a, b) => compare(a.name, b.name)).forEach((video, rank) => (video.rank = rank));
const byName = (a, b) => a.rank - b.rank;
const byCategory = (a, b) => compare(a.category, b.category);

function arrange() {
  const order = orders[byId("sort").value];
  const isShown = kinds[byId("show").value];
  const category = byId("category")?.value || "";
  const wanted = byId("name").value.trim().toLowerCase();
  let count = 0;
  for (const video of videos) {
    const isHidden = !(isShown(video) && (!category || video.category === category) &&
      video.name.toLowerCase().includes(wanted));
    if (isHidden !== video.card.hidden) video.card.hidden = isHidden;
    count += !isHidden;
  }
  list.append(...[...videos].sort((a, b) => order(a, b) || byName(a, b)).map(({ card }) => card));
  byId("shown").textContent = `${count} of ${plural(videos.length, "video")}`;
}

/* --- One curve under the pointer ---------------------------------------------------------------- */

/** Shows time, frame and each run's score at one point of a video. */
function read(video, place, ahead = "") {
  video.place = Math.max(0, Math.min(video.points.length - 1, place));
  const frame = video.place * stride;
  const time = video.rate > 0 ? `, ${clock(frame / video.rate)}` : "";
  const scores = video.curves.map((points, index) => {
    const score = thresholds[points[video.place]].toFixed(2);
    return data.runs ? `${data.runs[index].name} ${score}` : score;
  });
  const text = `${ahead}frame ${frame}${time}: ${scores.join(", ")}`;
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

const ofCard = new Map(videos.map((video) => [video.card, video]));

/** Calls `act` with the video on whose curve something happens, and its plot. */
function onPlot(kind, act) {
  list.addEventListener(kind, (event) => {
    const plot = event.target.closest(".plot");
    if (!plot) return;
    const video = ofCard.get(plot.closest(".card"));
    if (!video.cursor) refresh(video);
    act(event, video, plot);
  });
}

function follow(event, video, plot) {
  const box = plot.getBoundingClientRect();
  read(video, Math.floor(((event.clientX - box.left) / box.width) * video.points.length));
}

function listen() {
  onPlot("pointermove", follow);
  onPlot("click", (event, video, plot) => {
    follow(event, video, plot);
    play(video);
  });
  onPlot("keydown", (event, video) => {
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
  for (const video of videos.filter(({ link, frames }) => link && frames)) {
    const plot = video.card.querySelector(".plot");
    plot.classList.add("playable");
    plot.setAttribute("aria-label", `${plot.getAttribute("aria-label")}; Enter plays the video`);
  }
}

const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    const video = ofCard.get(target);
    if (isIntersecting) visible.add(video), refresh(video);
    else visible.delete(video);
  }
}, { rootMargin: "400px" });

/** Makes the page move; its own script calls it at its end. */
function start() {
  byId("choose").addEventListener("input", arrange);
  byId("choose").addEventListener("submit", (event) => event.preventDefault());
  arrange();
  listen();
  // without frames there is nothing to draw
  for (const { card, frames } of videos) if (frames) watcher.observe(card);
}
