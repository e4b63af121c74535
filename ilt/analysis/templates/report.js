"use strict";
// A click on a heading sorts its table; a second click reverses the order. Cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const number = heading.classList.contains("number");
    heading.querySelector("button")?.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const direction = (now ? now === "ascending" : number) ? "descending" : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction);
      const value = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => (number ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true }));
      const rows = [...table.tBodies[0].rows];
      const empty = rows.filter((row) => value(row) === "");
      const sorted = rows.filter((row) => value(row) !== "").sort(direction === "ascending" ? compare : (a, b) => compare(b, a));
      table.tBodies[0].append(...sorted, ...empty);
    });
  });
}
// Looping videos play while they are visible, unless the reader prefers reduced motion. Without this script, they do not start by themselves.
if (matchMedia("(prefers-reduced-motion: no-preference)").matches) {
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) target.play().catch(() => {});
      else target.pause();
    }
  });
  document.querySelectorAll("video[loop]").forEach((video) => watcher.observe(video));
}
