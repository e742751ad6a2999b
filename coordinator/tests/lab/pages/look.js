// Runs at the end of a page. MEDIA is light, dark or print: rules of that medium are made to hold, those of others not.
(() => {
  const wrong = [];
  const media = 'MEDIA';
  for (const sheet of document.styleSheets) {
    for (const rule of sheet.cssRules) {
      if (!(rule instanceof CSSMediaRule)) continue;
      const text = rule.media.mediaText;
      if (text.includes('dark')) rule.media.mediaText = media === 'dark' ? 'all' : 'not all';
      else if (text === 'print') rule.media.mediaText = media === 'print' ? 'all' : 'not all';
    }
  }
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth + 1) wrong.push(`the page is wider than the window: ${root.scrollWidth} of ${root.clientWidth} px`);
  if (media === 'print') {
    for (const table of document.querySelectorAll('table')) {
      if (table.scrollWidth > document.body.clientWidth + 1) {
        wrong.push(`a table is wider than the paper: ${table.scrollWidth} of ${document.body.clientWidth} px, columns ${table.rows[0].innerText.slice(0, 80)}`);
      }
    }
  }

  const channel = (value) => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const parse = (colour) => {
    const numbers = (colour || '').match(/[\d.]+/g);
    return numbers && numbers.length >= 3 && (numbers.length < 4 || Number(numbers[3]) > 0.5) ? numbers.slice(0, 3).map(Number) : null;
  };
  const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  // WCAG 2.1, 1.4.3: contrast ratio.
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m); return (x + 0.05) / (y + 0.05); };
  const paper = parse(getComputedStyle(document.body).backgroundColor) || [255, 255, 255];
  const inside = (box, x, y) => x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;

  const svgs = [...document.querySelectorAll('figure svg')];
  let count = 0;
  for (const svg of svgs) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].filter((text) => text.textContent.trim() && text.getBoundingClientRect().width > 0);
    count += texts.length;
    const name = (svg.querySelector('title') || {}).textContent || 'a figure';
    // In the order in which they are drawn, with their place among all elements.
    const order = new Map([...svg.querySelectorAll('*')].map((element, n) => [element, n]));
    const shapes = [...svg.querySelectorAll('rect, polygon')].map((shape) => [shape, order.get(shape), shape.getBoundingClientRect()]);
    const boxes = texts.map((text) => text.getBoundingClientRect());
    texts.forEach((text, n) => {
      const box = boxes[n];
      const says = `${name}: "${text.textContent.trim()}"`;
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) wrong.push(`${says} is outside of the picture`);
      if (innerWidth >= 1000 && box.height && box.height < (media === 'print' ? 10.5 : 12) && text.textContent.trim().length > 1) wrong.push(`${says} is small: ${box.height.toFixed(1)} px high`);
      // What is drawn below the middle of the text, last of what came before it.
      const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
      let below = paper;
      for (const [shape, place, area] of shapes) {
        if (place > order.get(text)) break;
        if (!inside(area, x, y)) continue;
        const style = getComputedStyle(shape);
        const fill = style.fill === 'none' ? null : parse(style.fill);
        if (fill && Number(style.opacity) > 0.5 && Number(style.fillOpacity) > 0.5) below = fill;
      }
      const own = parse(getComputedStyle(text).fill);
      if (own) {
        const ratio = contrast(own, below);
        if (ratio < 4.5) wrong.push(`${says} has a contrast of ${ratio.toFixed(1)} only`);
      }
      for (let m = n + 1; m < texts.length; m++) {
        const other = boxes[m];
        const w = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const h = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        // Boxes have air above and below the letters.
        if (w > 1 && h > 0.35 * Math.min(box.height, other.height)) wrong.push(`${says} overlaps "${texts[m].textContent.trim()}"`);
      }
    });
  }
  for (const text of document.querySelectorAll('p, li, td, th, a, .badge, figcaption, h1, h2, h3, code')) {
    const style = getComputedStyle(text);
    let box = text;
    let below = null;
    while (box && !below) { below = parse(getComputedStyle(box).backgroundColor); box = box.parentElement; }
    const own = parse(style.color);
    if (own && text.textContent.trim() && contrast(own, below || paper) < 4.5) {
      wrong.push(`<${text.tagName} class="${text.className}"> has a contrast of ${contrast(own, below || paper).toFixed(1)}: ${text.textContent.trim().slice(0, 40)}`);
    }
  }
  document.title = JSON.stringify({ figures: svgs.length, texts: count, tables: document.querySelectorAll('table').length, wrong: [...new Set(wrong)].slice(0, 60) });
})();
