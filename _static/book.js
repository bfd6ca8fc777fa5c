// Figures enlarge on a click, a tap or Enter; on paper, what is folded is open.
"use strict";
(() => {
  const shown = document.createElement("dialog");
  shown.className = "enlarged";
  shown.addEventListener("click", () => shown.close());

  const enlarge = (image) => {
    const copy = new Image();
    copy.src = image.src;
    copy.alt = image.alt;
    copy.className = image.classList.contains("drawing") ? "drawing" : "";
    shown.replaceChildren(copy);
    shown.showModal(); // Escape closes it, and the focus returns to the figure
  };

  for (const image of document.querySelectorAll(".bd-article img")) {
    if (image.closest("a, button")) continue;
    image.classList.add("enlarges");
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.setAttribute("aria-haspopup", "dialog");
    image.addEventListener("click", () => enlarge(image));
    image.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      enlarge(image);
    });
  }
  document.body.append(shown);
  shown.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") shown.close();
  });

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll(".bd-article details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });
})();
