"use strict";

// Tables: a press on a column's head sorts by it, the better end first.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? (cell.classList.contains("number") ? null : cell.textContent.trim()) : Number(cell.dataset.value);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.first || (head.classList.contains("number") ? "descending" : "ascending");
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const way = order === "ascending" ? 1 : -1;
      const sorted = [...body.rows].sort((a, b) => {
        const left = value(a, column), right = value(b, column);
        if (left === null || right === null) return (left === null) - (right === null);
        return way * (typeof left === "number" ? left - right : left.localeCompare(right));
      });
      body.append(...sorted);
    });
  });
}

// Charts: the values nearest to the pointer.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const tip = svg.parentElement.querySelector(".tip");
  const rule = svg.querySelector(".rule");
  const lines = [...svg.querySelectorAll("[data-points]")].map((group) => ({
    label: group.dataset.label,
    points: group.dataset.points.split(";").filter(Boolean).map((text) => {
      const [x, y, xWords, yWords] = text.split("|");
      return { x: Number(x), y: Number(y), xWords, yWords };
    }),
  }));
  const hide = () => { tip.hidden = true; rule.setAttribute("d", "M0 0"); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const near = lines.map((line) => ({
      label: line.label,
      point: line.points.reduce((best, point) => (Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best)),
    })).filter((each) => Math.abs(each.point.x - x) < 24);
    if (!near.length) { hide(); return; }
    const at = near.reduce((best, each) => (Math.abs(each.point.x - x) < Math.abs(best.point.x - x) ? each : best));
    tip.replaceChildren(...near.map((each) => {
      const line = document.createElement("div");
      line.textContent = `${each.label}: ${each.point.yWords} at ${each.point.xWords}`;
      return line;
    }));
    rule.setAttribute("d", `M${at.point.x} ${svg.dataset.top}V${svg.dataset.bottom}`);
    tip.hidden = false;
    const place = at.point.x * box.width / svg.viewBox.baseVal.width;
    tip.style.left = `${Math.max(0, Math.min(place + 10, box.width - tip.offsetWidth))}px`;
  });
}
