// Sort a table by the column whose header is clicked: numbers by size, everything else as text, empty cells last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const text = (row) => row.cells[head.cellIndex].textContent.trim();
    const order = (a, b) => {
      const [x, y] = [text(a), text(b)], [u, v] = [parseFloat(x), parseFloat(y)];
      if (!x || !y || x === "-" || y === "-") return (!x || x === "-") - (!y || y === "-");
      const rising = isNaN(u) || isNaN(v) ? x.localeCompare(y) : u - v;
      return falling ? -rising : rising;
    };
    body.append(...[...body.rows].sort(order));
  });
}
