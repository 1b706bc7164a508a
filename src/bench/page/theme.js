/* Light and dark, and figures that follow the width of the screen. */
const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").setAttribute("aria-pressed", String(name === "dark"));
}
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", (e) => theme(e.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
let screenWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === screenWidth) return;
  screenWidth = innerWidth;
  redrawAll();
});
