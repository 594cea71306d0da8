
/* --- Why: what model/evaluation/why.py says of a video -------------------------------------------- */

function picture(image, alt) {
  return element("img", { src: data.images[image], alt });
}

function showWhy(video) {
  if (!video.why) return;
  const { pictures, neighbours, far } = video.why;
  if (pictures.length) {
    const shown = pictures.map((one) => element("li", {}, pictureButton(video, one)));
    video.card.append(element("ul", { className: "pictures" }, ...shown));
  }
  if (far) {
    const text = `Far from the training videos: ${far}. Its scores may mean little.`;
    video.card.append(element("p", { className: "why bad" }, text));
  }
  if (neighbours.length) {
    const title = "Nearest training clips to the peak, each of another video:";
    video.card.append(
      element("p", { className: "why" }, title),
      element("ol", { className: "pictures near" }, ...neighbours.map(neighbour)));
  }
}

/** Returns a picture that moves the reading point to its frame, and plays the video there. */
function pictureButton(video, { frame, what, image }) {
  const place = Math.floor(frame / stride);
  const [time, score] = [when(video, frame), thresholds[video.points[place]].toFixed(2)];
  const button = element("button", { type: "button" },
    picture(image, `${what}: score ${score} at ${time}`),
    element("span", { ariaHidden: "true" }, element("b", {}, score), ` ${time}, ${what}`));
  button.addEventListener("click", () => {
    read(video, place);
    play(video);
  });
  return button;
}

function neighbour({ video, frame, seconds, label, distance, image }) {
  const time = seconds === null ? `frame ${frame}` : clock(seconds);
  return element("li", {},
    ...(image === null ? [] : [picture(image, `${video} at ${time}, ${label}`)]),
    element("bdi", {}, video), ` ${time}, ${label}, distance ${distance.toFixed(2)}`);
}
