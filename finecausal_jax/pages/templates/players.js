"use strict";
// One control for all videos. Its value is a place in the dive, stage by stage: 1.5 is half way
// through the second stage, in every video, whatever its own timing.
const videos = [...document.querySelectorAll("video[data-stages]")].map((element) => ({
  element, stages: JSON.parse(element.dataset.stages),
}));
const slider = document.getElementById("place");
const button = document.getElementById("play");
const told = document.getElementById("told");
const names = ["forward", "twist", "entry"];
let playing = false, before = 0;

function show() {
  const value = Math.min(Number(slider.value), 2.9999), stage = Math.floor(value);
  for (const { element, stages } of videos) {
    const [first, last] = stages[stage];
    const wanted = first + (value - stage) * (last - first);
    if (!element.seeking && Math.abs(element.currentTime - wanted) > 0.001) element.currentTime = wanted;
  }
  told.textContent = names[stage];
  slider.setAttribute("aria-valuetext", names[stage] + ", " + Math.round(100 * (value - stage)) + "%");
}

function tick(now) {
  if (!playing) return;
  const value = Number(slider.value), stages = videos[0].stages[Math.min(2, Math.floor(value))];
  const length = Math.max(0.2, stages[1] - stages[0]);
  // A quarter of the speed of life: a dive takes two seconds.
  slider.value = value + 0.25 * (now - before) / 1000 / length;
  before = now;
  if (Number(slider.value) >= 3) slider.value = 0;
  show();
  requestAnimationFrame(tick);
}

if (slider && videos.length) {
  slider.addEventListener("input", show);
  button.addEventListener("click", () => {
    playing = !playing;
    button.textContent = playing ? "Pause" : "Play";
    before = performance.now();
    requestAnimationFrame(tick);
  });
  for (const { element } of videos) element.addEventListener("loadeddata", show, { once: true });
  show();
}
