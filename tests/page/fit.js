// In the page: what is wrong with it for someone who reads it in another way. Returns a list of complaints.
() => {
  const wrong = [];
  const numbers = colour => {
    const values = colour.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
    const [r, g, b, a = 1] = values, scale = colour.startsWith("color(") ? 255 : 1;
    return [r * scale, g * scale, b * scale, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const ground = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(numbers(getComputedStyle(e).backgroundColor));
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let words = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || /^(SCRIPT|STYLE|NOSCRIPT|OPTION)$/.test(element.tagName)) continue;
    words++;
    const below = ground(element), ink = over(numbers(getComputedStyle(element).color), below);
    const [a, b] = [light(ink), light(below)].sort((x, y) => y - x), contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(2)} of "${text.slice(0, 40)}"`);
  }
  if (words < 30) wrong.push(`only ${words} pieces of text`);
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`${document.documentElement.scrollWidth} px wide in ${innerWidth}`);
  const hides = e => { const style = getComputedStyle(e); return style.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1; };
  for (const e of document.querySelectorAll("article, li, p, section, dl")) if (hides(e)) wrong.push(`cut off: ${e.tagName}.${e.className}`);
  for (const e of document.querySelectorAll("button, a, input, select")) {
    if (!e.checkVisibility()) continue;
    const name = e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels[0] && e.labels[0].textContent.trim());
    if (!name) wrong.push(`no name: ${e.outerHTML.slice(0, 80)}`);
    const controls = e.getAttribute("aria-controls");
    if (controls && !document.getElementById(controls)) wrong.push(`controls nothing: ${controls}`);
  }
  for (const e of document.querySelectorAll("[role=img]")) if (e.checkVisibility() && !e.getAttribute("aria-label")) wrong.push(`a picture without words: ${e.getAttribute("class")}`);
  for (const e of document.querySelectorAll("svg:not([role])")) if (e.getAttribute("aria-hidden") !== "true") wrong.push("an ornament that is read out");
  for (const e of document.querySelectorAll("[aria-labelledby]")) {
    if (e.checkVisibility() && !document.getElementById(e.getAttribute("aria-labelledby"))) wrong.push(`labelled by nothing: ${e.id}`);
  }
  let level = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!e.checkVisibility()) continue;
    const now = Number(e.tagName[1]);
    if (now > level + 1) wrong.push(`h${level}, then h${now}: ${e.textContent}`);
    level = now;
  }
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id), twice = ids.find((id, n) => ids.indexOf(id) !== n);
  if (twice) wrong.push(`two have the id ${twice}`);
  if (!document.documentElement.lang || !document.querySelector("main") || document.querySelectorAll("h1").length !== 1) wrong.push("no language, main or h1");
  // Each state is told by a word and by a shape, not by its colour alone.
  for (const e of document.querySelectorAll("article")) {
    if (e.querySelector(".fold") && !(e.querySelector(".state").textContent && e.querySelector(".sign svg path"))) wrong.push(`only a colour: ${e.id}`);
  }
  return wrong;
}
