"use strict";
// Everything that comes from traces is put in as text, never as markup.

const PATH = "/dashboard", EVERY_MS = 4000;
const at = (id) => document.getElementById(id);
let key = "", number = 0, open = new Set(), timer = 0, cardColours = new Map();
let last = null, lastLatest = "", lastVersions = "", lastStates = "";

// --- building blocks ---------------------------------------------------------------------------

function el(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [k, v] of Object.entries(options)) {
    if (v === null || v === undefined || v === false) continue;
    if (k === "on") for (const [event, f] of Object.entries(v)) made.addEventListener(event, f);
    else if (k === "style") Object.assign(made.style, v);
    else if (k === "class") made.className = v;
    else made.setAttribute(k, v === true ? "" : String(v));
  }
  made.append(...children.filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c))));
  return made;
}
function svg(name, options = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [k, v] of Object.entries(options)) {
    if (k === "style") Object.assign(made.style, v);
    else made.setAttribute(k, String(v));
  }
  made.append(...children.map((c) => (c instanceof Node ? c : String(c))));
  return made;
}
const fill = (id, ...children) => at(id).replaceChildren(...children.filter(Boolean));
const table = (heads, rows, caption) =>
  el("div", { class: "scroll" }, el("table", {}, caption ? el("caption", {}, caption) : null,
    el("thead", {}, el("tr", {}, ...heads.map((h) => typeof h === "string" ? el("th", { scope: "col" }, h) : h))),
    el("tbody", {}, ...rows)));

// --- words for figures -------------------------------------------------------------------------

const known = (x) => x !== null && x !== undefined && Number.isFinite(x);
function usd(x) {
  if (!known(x)) return "unknown";
  const size = Math.abs(x), digits = size >= 100 ? 0 : size >= 1 ? 2 : size === 0 ? 0 : Math.min(9, Math.max(3, 2 - Math.floor(Math.log10(size))));
  return `${x < 0 ? "−" : ""}$${size.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}
const percent = (x, signed = false) => known(x) ? `${signed && x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(100 * x).toFixed(0)} %` : "unknown";
const points = (x) => known(x) ? `${x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(x).toFixed(3)}` : "unknown";
const score = (x) => known(x) ? x.toFixed(3) : "–";
const between = (f, form) => !f || !known(f.low) || !known(f.high) ? "" : `${form(f.low)} to ${form(f.high)}`;
const ms = (s) => known(s) ? (s >= 10 ? `${s.toFixed(0)} s` : s >= 1 ? `${s.toFixed(1)} s` : `${(1000 * s).toFixed(0)} ms`) : "–";
const count = (n) => Number(n).toLocaleString("en");
const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = (seconds) => new Date(1000 * seconds).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
function colour(card) {
  if (!cardColours.has(card) && !last) return "var(--c7)"; // until all cards are known, in their order
  if (!cardColours.has(card)) cardColours.set(card, `var(--c${Math.min(cardColours.size, 7)})`);
  return cardColours.get(card);
}
const legend = (names) => el("p", { "aria-hidden": "true" }, ...names.map((name) => el("span", { class: "key" }, el("i", { style: { background: colour(name) } }), name)));

// --- figures -----------------------------------------------------------------------------------

function tile(name, value, more, tone) {
  return el("div", { class: "tile" }, el("span", { class: "name" }, name), el("span", { class: `value ${tone || ""}` }, value), el("span", { class: "more" }, more));
}
function drawTiles(s) {
  const money = s.savings, best = money.cards.find((c) => c.card === money.against), all = s.quality.all;
  const share = best ? best.saved_share : null, total = s.health.reduce((n, c) => n + c.attempts, 0), failed = s.health.reduce((n, c) => n + c.failed, 0);
  fill("tiles",
    tile(best ? `Saved against ${best.card} for all` : "Saved", share && known(share.value) ? percent(share.value, true) : "unknown",
      best ? `${between(share, (x) => percent(x, true)) || "no interval"}; quality ${best.score ? `${points(best.score.value)} (${between(best.score, points)})` : "against it unknown"}` : money.against_because,
      share && share.low > 0 ? "good" : share && share.high < 0 ? "bad" : ""),
    tile("Spent", usd(money.spent_usd), `router ${usd(money.router_usd)}${money.unpriced ? `; ${count(money.unpriced)} of unknown cost` : ""}`),
    tile("Quality", known(all.value) ? percent(all.value) : "unknown", known(all.value) ? `${between(all, percent)} of ${count(s.quality.scored)} scores, by “${s.feedback}”` : "no answer has a score"),
    tile("Requests", count(money.requests), `${count(money.threads)} threads in ${s.days >= 2 ? `${Math.round(s.days)} days` : `${Math.round(24 * s.days)} hours`}`),
    tile("Failed over", money.requests ? percent(s.failed_over / money.requests) : "–", `${count(failed)} of ${count(total)} attempts failed; ${count(money.unanswered)} unanswered`, s.failed_over > 0.05 * money.requests ? "bad" : ""),
    tile("Latency", ms(s.latency_s.median), `95 % within ${ms(s.latency_s.p95)}`));
}

function drawSpend(s) {
  const money = s.savings, best = money.cards.find((c) => c.card === money.against);
  at("spend-about").textContent = best ? `Compared with ${best.card}, ${money.against_because}. What others would have cost is estimated on the same requests; intervals are 95 %, over threads.` : money.against_because;
  fill("spend-chart", s.over_time.length > 1 ? spendChart(s, best) : null);
  if (!money.cards.length) return fill("spend-cards");
  const most = Math.max(money.spent_usd, ...money.cards.map((c) => c.usd.high ?? c.usd.value ?? 0)) || 1;
  const rows = money.cards.map((c) => el("tr", {},
    el("th", { scope: "row" }, c.card, c.card === money.against ? el("small", {}, " (compared)") : null),
    el("td", { class: "optional" }, forest(c.usd, most, money.spent_usd)),
    el("td", {}, usd(c.usd.value), el("br"), el("small", {}, between(c.usd, usd))),
    el("td", { class: known(c.saved_share.low) && c.saved_share.low > 0 ? "good" : known(c.saved_share.high) && c.saved_share.high < 0 ? "bad" : "" }, percent(c.saved_share.value, true), el("br"), el("small", {}, between(c.saved_share, (x) => percent(x, true)))),
    el("td", {}, c.score ? points(c.score.value) : el("span", { title: c.score_unknown }, "unknown"), el("br"), el("small", {}, c.score ? between(c.score, points) : "")),
    el("td", {}, c.utility ? points(c.utility.value) : "unknown", el("br"), el("small", {}, c.utility ? between(c.utility, points) : "")),
    el("td", { class: "optional" }, c.usd_by)));
  fill("spend-cards", table(["card for everything", el("th", { scope: "col", class: "optional" }, el("span", { class: "hidden" }, "drawn")), "would have cost", "saved", "quality", "net", el("th", { scope: "col", class: "optional" }, "cost told by")], rows),
    el("p", { class: "soft" }, `Quality: mean score served less the card's, where the card could have been drawn. Net: less cost, at cost weight ${money.cost_weight}.`),
    ...[...new Set(money.cards.map((c) => c.score_unknown).filter(Boolean))].map((why) => el("p", { class: "soft" }, `Unknown: ${why}`)));
}
function forest(f, most, spent) {
  const x = (v) => 4 + 192 * Math.max(0, v) / most;
  const made = svg("svg", { viewBox: "0 0 200 22", role: "img", "aria-label": `${usd(f.value)}; spent ${usd(spent)}`, style: { minWidth: "130px", maxWidth: "260px" } },
    svg("line", { class: "zero", x1: x(spent), x2: x(spent), y1: 1, y2: 21, "stroke-dasharray": "3 2" }));
  if (known(f.low)) made.append(svg("line", { class: "range", x1: x(f.low), x2: x(f.high), y1: 11, y2: 11, stroke: "var(--blue)" }));
  if (known(f.value)) made.append(svg("circle", { cx: x(f.value), cy: 11, r: 4.5, fill: "var(--blue)" }));
  return made;
}
function spendChart(s, best) {
  const W = Math.max(300, at("spend-chart").clientWidth), H = W < 500 ? 170 : 210, L = 62, R = 8, T = 12, B = 28;
  const sums = { usd: [0], other: [0] };
  for (const b of s.over_time) { sums.usd.push(sums.usd.at(-1) + b.usd); sums.other.push(known(b.against_usd) ? sums.other.at(-1) + b.against_usd : NaN); }
  const times = [s.over_time[0].from, ...s.over_time.map((b) => b.to)];
  const top = Math.max(...sums.usd, ...sums.other.filter(known)) || 1;
  const x = (t) => L + (W - L - R) * (t - times[0]) / ((times.at(-1) - times[0]) || 1), y = (v) => H - B - (H - T - B) * v / top;
  const path = (values) => values.map((v, n) => `${n ? "L" : "M"}${x(times[n]).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const label = `Spent so far ${usd(sums.usd.at(-1))}` + (best && known(sums.other.at(-1)) ? `; ${best.card} for everything ${usd(sums.other.at(-1))}` : "");
  const made = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) made.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: y(top * share), y2: y(top * share) }), svg("text", { x: L - 6, y: y(top * share) + 4, "text-anchor": "end" }, usd(top * share)));
  for (const [n, anchor] of [[0, "start"], ...(W < 500 ? [] : [[Math.floor(times.length / 2), "middle"]]), [times.length - 1, "end"]]) made.append(svg("text", { x: x(times[n]), y: H - 8, "text-anchor": anchor }, day(times[n])));
  const other = best && sums.other.every(known);
  if (other) made.append(svg("path", { d: `${path(sums.other)}L${x(times.at(-1))} ${y(0)}L${x(times[0])} ${y(0)}Z`, fill: "var(--c7)", opacity: 0.12 }), svg("path", { d: path(sums.other), fill: "none", stroke: "var(--c7)", "stroke-width": 2, "stroke-dasharray": "6 4" }));
  made.append(svg("path", { d: path(sums.usd), fill: "none", stroke: "var(--blue)", "stroke-width": 2.6 }));
  return el("figure", { style: { margin: "0" } }, made, el("figcaption", {},
    el("span", { class: "key" }, el("i", { style: { background: "var(--blue)" } }), "spent so far"),
    other ? el("span", { class: "key" }, el("i", { style: { background: "var(--c7)" } }), `${best.card} for everything`) : null));
}

function drawQuality(s) {
  if (!s.quality.scored) return fill("quality", el("p", { class: "soft" }, "No answer has a score. Record feedback with TraceStore.record_feedback, or POST it to the server."));
  const rows = s.quality.cards.map((c) => el("tr", {}, el("th", { scope: "row" }, c.card), el("td", { class: "optional" }, range(c.score, colour(c.card))),
    el("td", {}, known(c.score.value) ? percent(c.score.value) : "–", " ", el("small", {}, between(c.score, percent))), el("td", {}, count(c.scored)), el("td", {}, count(c.answered))));
  fill("quality", table(["card", el("th", { scope: "col", class: "optional" }, el("span", { class: "hidden" }, "drawn")), "mean score", "scored", "answered"], rows),
    el("p", { class: "soft" }, "Of the requests that were sent there: cards see different ones, so these are no ranking. The table above compares them on the same."),
    el("h3", {}, "Over time"), scoreChart(s));
}
function range(f, paint) {
  const x = (v) => 4 + 112 * Math.min(1, Math.max(0, v));
  const made = svg("svg", { viewBox: "0 0 120 18", role: "img", "aria-label": `${percent(f.value)}`, style: { minWidth: "90px", maxWidth: "160px" } }, svg("line", { class: "grid", x1: 4, x2: 116, y1: 9, y2: 9 }));
  if (known(f.low)) made.append(svg("line", { class: "range", x1: x(f.low), x2: x(f.high), y1: 9, y2: 9, stroke: paint }));
  if (known(f.value)) made.append(svg("circle", { cx: x(f.value), cy: 9, r: 4, fill: paint }));
  return made;
}
function scoreChart(s) {
  const W = Math.max(260, at("quality").clientWidth), H = 110, L = 42, R = 8, T = 8, B = 8, own = s.over_time.filter((b) => b.scored);
  const first = s.over_time[0].from, last = s.over_time.at(-1).to;
  const x = (b) => L + (W - L - R) * ((b.from + b.to) / 2 - first) / ((last - first) || 1), y = (v) => H - B - (H - T - B) * v;
  const most = Math.max(...own.map((b) => b.scored), 1);
  const made = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Mean score over time, last ${own.length ? percent(own.at(-1).score) : "unknown"}` });
  for (const v of [0, 0.5, 1]) made.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }), svg("text", { x: L - 5, y: y(v) + 4, "text-anchor": "end" }, `${100 * v} %`));
  made.append(svg("path", { d: own.map((b, n) => `${n ? "L" : "M"}${x(b).toFixed(1)} ${y(b.score).toFixed(1)}`).join(""), fill: "none", stroke: "var(--green)", "stroke-width": 1.5, opacity: 0.5 }));
  for (const b of own) made.append(svg("circle", { cx: x(b), cy: y(b.score), r: 1.5 + 3 * Math.sqrt(b.scored / most), fill: "var(--green)" }, svg("title", {}, `${day(b.from)}: ${percent(b.score)} of ${b.scored}`)));
  return made;
}

function drawKinds(s) {
  const cards = [...new Set(s.kinds.flatMap((k) => Object.keys(k.cards)))].sort();
  fill("kinds", legend(cards), ...s.kinds.map((k) => {
    const said = Object.entries(k.cards).map(([c, n]) => `${c} ${percent(n / k.requests)}`).join(", ");
    return el("div", { class: "kind" },
      el("div", { class: "head" }, el("span", {}, k.kind), el("span", {}, `${percent(k.share)} · ${known(k.score) ? `${percent(k.score)} good · ` : ""}${usd(k.usd)}`)),
      el("div", { class: "bar", role: "img", "aria-label": said, title: said }, ...cards.filter((c) => k.cards[c]).map((c) => el("span", { style: { width: `${100 * k.cards[c] / k.requests}%`, background: colour(c) } }))));
  }), s.checkpoint ? null : el("p", { class: "soft" }, "Kinds are told apart by a checkpoint: give --checkpoint, or promote one."));
}

function drawOverlap(s) {
  const o = s.overlap;
  if (o.unknown) return fill("overlap", el("p", { class: "soft" }, `Not known yet: ${o.unknown}.`));
  const worst = 0.2;
  const rows = o.families.map((f) => el("tr", {}, el("th", { scope: "row" }, f.kind), el("td", {}, percent(f.share)), ...f.cells.map((c) =>
    el("td", {}, el("span", { class: "cell", style: { background: `color-mix(in srgb, var(--green) ${Math.round(38 * Math.max(0, 1 - c.error / worst))}%, transparent)` }, title: `worth ${c.worth.toFixed(0)} answers` }, `${score(c.score)} ±${c.error.toFixed(2)}`, el("br"), el("small", {}, c.tries ? `${count(c.tries)} scored` : "never scored"))))));
  fill("overlap", table(["kind of request", "share", ...o.cards], rows, "Expected score of each card with its standard error, and how many scored answers tell it; the greener, the surer."),
    o.smaller ? el("p", { class: "soft" }, `… and ${o.smaller} smaller kinds`) : null,
    el("p", {}, el("span", { class: "badge main" }, o.use === "checkpoint" ? "promote what the log teaches" : o.use === "as it is" ? "keep what is" : `use ${o.use}`), " ", o.reason),
    ...o.changes.map((c) => el("p", { class: "bad" }, `Changed: ${c}`)),
    o.to_settle.length ? el("h3", {}, "Worth exploring, the most telling first") : null,
    o.to_settle.length ? el("ul", {}, ...o.to_settle.map((one) => el("li", {}, one.said))) : null);
}

function drawHealth(s, states) {
  const rows = s.health.map((c) => el("tr", {}, el("th", { scope: "row" }, c.card), el("td", {}, count(c.attempts)),
    el("td", { class: c.failed > 0.05 * c.attempts ? "bad" : "" }, count(c.failed)),
    el("td", { class: "nowrap" }, ms(c.latency_s.median)), el("td", { class: "nowrap" }, ms(c.latency_s.p95)),
    el("td", { class: "left wrap ends" }, states && states[c.card] ? el("span", { class: `badge ${states[c.card] === "ok" ? "ok" : "alarm"}` }, states[c.card] === "ok" ? "taking calls" : "left alone") : null, " ", Object.entries(c.errors).map(([e, n]) => `${e} × ${count(n)}`).join(", "), c.cut ? `${c.failed ? "; " : ""}${count(c.cut)} answers cut at their limit` : null)));
  fill("health", rows.length ? table(["card", "attempts", "failed", "median", "95 %", el("th", { scope: "col", class: "left" }, "how they failed")], rows) : el("p", { class: "soft" }, "No attempt yet."));
}

function drawDrift(s) {
  if (!s.drift) return fill("drift", el("p", { class: "soft" }, "Drift is measured from what a checkpoint was trained on: give --checkpoint, or promote one."));
  const order = { alarm: 0, ok: 1, unknown: 2 }, checks = [...s.drift.checks].sort((a, b) => order[a.status] - order[b.status]);
  fill("drift", el("p", {}, s.drift.alarm ? el("span", { class: "badge alarm" }, "traffic has moved") : el("span", { class: "badge ok" }, "nothing moved, as far as can be told"), ` ${count(s.drift.decided)} of ${count(s.drift.requests)} requests were decided by ${s.drift.checkpoint}`),
    table(["check", "", el("th", { scope: "col", class: "left" }, "found")], checks.map((c) => el("tr", {}, el("th", { scope: "row" }, c.name), el("td", {}, el("span", { class: `badge ${c.status}` }, c.status)), el("td", { class: "left" }, c.said, c.status === "alarm" ? el("div", { class: "soft" }, c.advice) : null)))));
}

// --- now ---------------------------------------------------------------------------------------

function drawLatest(now) {
  const rows = [];
  for (const d of now.decisions) {
    const shown = open.has(d.id);
    rows.push(el("tr", {}, el("td", { class: "nowrap" }, clock(d.at)),
      el("td", { class: "prompt" }, el("button", { class: "link", type: "button", "data-id": d.id, "aria-expanded": String(shown), on: { click: () => { shown ? open.delete(d.id) : open.add(d.id); drawLatest(now); document.querySelector(`[data-id="${CSS.escape(d.id)}"]`)?.focus(); } } }, d.text === null ? "text not stored" : d.text.length > 110 ? `${d.text.slice(0, 110)} …` : d.text || "(empty)")),
      el("td", { class: "left" }, d.route === null ? el("span", { class: "badge alarm" }, d.error || "no answer") : el("span", { class: "key" }, el("i", { style: { background: colour(d.route) } }), d.route), d.explored ? el("span", { class: "badge" }, "explored") : null, d.fallbacks.length ? el("span", { class: "badge alarm" }, `${d.fallbacks.length} failed`) : null),
      el("td", { class: "nowrap" }, usd(d.usd)), el("td", { class: "optional nowrap" }, ms(d.latency_s)), el("td", { class: "left optional" }, d.reason)));
    if (shown) rows.push(el("tr", {}, el("td", { colspan: 6, class: "details" }, details(d))));
  }
  fill("latest", rows.length ? table(["time", el("th", { scope: "col", class: "left" }, "asked"), el("th", { scope: "col", class: "left" }, "went to"), "USD", el("th", { scope: "col", class: "optional" }, "took"), el("th", { scope: "col", class: "left optional" }, "why")], rows) : el("p", { class: "soft" }, "No request yet."));
}
function details(d) {
  const list = (o, form) => Object.entries(o || {}).sort((a, b) => b[1] - a[1]).map(([k, v]) => `${k} ${form(v)}`).join("   ");
  const facts = { asked: d.text, why: d.reason, policy: d.policy, probabilities: list(d.scores, score), "expected score": list(d.quality, score), propensity: known(d.propensity) ? d.propensity.toFixed(3) : null, "cost weight": d.cost_weight,
    tokens: `${count(d.tokens[0])} in, ${count(d.tokens[1])} out`, model: d.served_model, removed: Object.entries(d.removed).map(([c, w]) => `${c}: ${w}`).join("; "), failed: d.fallbacks.map((f) => `${f.card}: ${f.error}`).join("; "), trace: d.trace_id };
  return el("dl", {}, ...Object.entries(facts).filter(([, v]) => v !== null && v !== undefined && v !== "").flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
}

function drawVersions(v) {
  const serving = Object.fromEntries(v.aliases.map((a) => [a.alias, a]));
  const rows = v.checkpoints.map((c) => {
    const by = v.aliases.filter((a) => a.version && a.version === c.version).map((a) => a.alias);
    const allowed = c.promote === true;
    return el("tr", {}, el("th", { scope: "row" }, c.name, " ", ...by.map((a) => el("span", { class: `badge ${a === "production" ? "main" : ""}` }, a))),
      el("td", { class: "left" }, c.error ? el("span", { class: "bad" }, c.error) : [c.kind, c.version].join(" "), c.created_at ? el("div", { class: "soft" }, day(c.created_at)) : null),
      el("td", { class: "left optional" }, c.error ? "" : el("span", { class: `badge ${allowed ? "ok" : c.promote === false ? "alarm" : ""}` }, allowed ? "may serve" : c.promote === false ? "may not serve" : "not judged"), c.reason ? el("div", { class: "soft" }, c.reason.length > 180 ? `${c.reason.slice(0, 180)} …` : c.reason) : null),
      el("td", {}, c.error || by.includes("production") ? null : el("div", { class: "row end" }, ...["candidate", "production"].filter((a) => !by.includes(a)).map((a) =>
        el("button", { type: "button", disabled: a === "production" && !allowed, title: a === "production" && !allowed ? "no verdict allows it" : null, "aria-label": `Make ${c.name} ${a}`, on: { click: () => ask({ action: "promote", alias: a, checkpoint: c.name }, `Make ${c.name} ${a}?`, `${a} points to ${serving[a]?.version || "nothing"}; it will point to ${c.version}. What serves by it follows when it next loads. The verdict is checked again.`) } }, a === "production" ? "Promote" : "To candidate")))));
  });
  const backs = v.can_roll_back.map((a) => el("button", { type: "button", on: { click: () => ask({ action: "rollback", alias: a }, `Roll ${a} back?`, `${a} points to ${serving[a]?.version || "nothing"}; it will point to what it pointed to before its last promotion.`) } }, `Roll ${a} back`));
  fill("versions", ...v.aliases.filter((a) => a.error).map((a) => el("p", { class: "bad" }, a.error)),
    rows.length ? table(["checkpoint", el("th", { scope: "col", class: "left" }, "version"), el("th", { scope: "col", class: "left optional" }, "verdict"), el("th", { scope: "col" }, el("span", { class: "hidden" }, "moves"))], rows) : el("p", { class: "soft" }, "No checkpoint in this folder. `xrouter learn` or `xrouter train` writes one."),
    backs.length ? el("p", { class: "row" }, ...backs) : null,
    v.moves.length ? el("h3", {}, "Last moves") : null,
    v.moves.length ? el("ul", {}, ...v.moves.map((m) => el("li", {}, `${m.at.replace("T", " ").replace("Z", " UTC")}: ${m.alias} ${m.action === "rollback" ? "rolled back" : "promoted"} to ${m.to_version}, by ${m.by}${m.forced ? `; forced: ${m.forced}` : ""}`))) : null);
}
function ask(move, title, text) {
  at("confirm-title").textContent = title;
  at("confirm-text").textContent = text;
  const dialog = at("confirm");
  dialog.returnValue = "no";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "yes") return;
    const answer = await fetch(`${PATH}/move`, { method: "POST", headers: { authorization: `Bearer ${key}`, "content-type": "application/json" }, body: JSON.stringify(move) });
    const told = await answer.json();
    at("moved").className = answer.ok ? "good" : "bad";
    at("moved").textContent = answer.ok ? `${told.alias}: ${told.from || "nothing"} → ${told.to}` : told.error;
    look();
  };
  dialog.showModal();
  at("confirm-no").focus();
}

// --- live --------------------------------------------------------------------------------------

function needKey(why) {
  at("ask-key").hidden = false;
  for (const id of ["figures", "latest-panel", "versions-panel", "waiting"]) at(id).hidden = true;
  at("key-wrong").textContent = why;
  status("off", "locked");
}
function status(state, text) {
  at("live").className = `live ${state}`;
  if (at("live-text").textContent !== text) at("live-text").textContent = text;
}
async function look() {
  clearTimeout(timer);
  if (!key) return needKey("");
  try {
    const answer = await fetch(`${PATH}/data?have=${number}`, { headers: { authorization: `Bearer ${key}` } });
    const told = await answer.json();
    if (answer.status === 401) { sessionStorage.removeItem("xrouter-dashboard"); key = ""; return needKey(told.error); }
    if (!answer.ok) throw new Error(told.error);
    at("ask-key").hidden = true;
    show(told);
    status("on", told.busy ? "live; figures are being computed" : last ? `live; figures of ${clock(last.at)}` : "live");
  } catch (error) {
    status("off", `not connected: ${error.message}`);
  }
  timer = setTimeout(look, document.hidden ? 5 * EVERY_MS : EVERY_MS);
}
function show(told) {
  if (told.snapshot) {
    last = told.snapshot; number = told.number; lastStates = "";
    const names = new Set([...last.savings.cards.map((c) => c.card), ...last.health.map((c) => c.card)]);
    [...names].sort().forEach(colour);
    at("about").textContent = last.checkpoint ? `read by ${last.checkpoint.name} ${last.checkpoint.version}` : "Routing at work";
    at("figures").hidden = false;
    lastLatest = "";
    drawTiles(last); drawSpend(last); drawQuality(last); drawKinds(last); drawOverlap(last); drawDrift(last);
  }
  at("figures").hidden = !last;
  at("waiting").hidden = Boolean(last) || Boolean(told.error);
  at("problem").hidden = !told.error;
  at("problem").textContent = told.error || "";
  const states = JSON.stringify(told.now.cards), latest = JSON.stringify(told.now.decisions), versions = JSON.stringify(told.versions);
  if (last && states !== lastStates) { lastStates = states; drawHealth(last, told.now.cards); }
  at("latest-panel").hidden = at("versions-panel").hidden = false;
  if (latest !== lastLatest) { lastLatest = latest; drawLatest(told.now); }
  if (versions !== lastVersions && !at("confirm").open) { lastVersions = versions; drawVersions(told.versions); }
}

const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given) { sessionStorage.setItem("xrouter-dashboard", given); history.replaceState(null, "", location.pathname); }
key = sessionStorage.getItem("xrouter-dashboard") || "";
at("ask-key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  at("key").value = "";
  if (key) { sessionStorage.setItem("xrouter-dashboard", key); look(); }
});
let width = innerWidth;
addEventListener("resize", () => { if (last && width !== innerWidth) { width = innerWidth; drawSpend(last); drawQuality(last); } });
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
