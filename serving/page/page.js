// Shows /ui/state every two seconds. What models and users say is only ever set as text.
"use strict";

const EVERY_MS = 2000;
const at = (id) => document.getElementById(id);
const percent = (value, digits = 1) => (value == null ? "–" : `${(100 * value).toFixed(digits)} %`);
const ms = (value) => (value == null ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`);
const count = (value) => (value == null ? "–" : value.toLocaleString("en"));

function make(tag, words, kind) {
  const made = document.createElement(tag);
  if (words != null) made.textContent = words;
  if (kind) made.className = kind;
  return made;
}

function list(rows) {
  const made = make("dl");
  for (const [name, value] of rows) made.append(make("dt", name), make("dd", value));
  return made;
}

function table(head, rows) {
  const made = make("table"), top = make("tr");
  top.append(...head.map((one) => make("th", one)));
  made.append(top);
  for (const row of rows) {
    const line = make("tr");
    line.append(...row.map((one) => (one instanceof Node ? one : make("td", one))));
    made.append(line);
  }
  const wide = make("div", null, "wide");
  wide.append(made);
  return wide;
}

// A confidence sequence on a scale that begins at the lowest end shown by any arm.
function range(agreement, from) {
  const made = make("div"), bar = make("div", null, "range"), scale = make("div", null, "scale");
  const place = (value) => `${(100 * (value - from)) / (1 - from)}%`;
  const band = make("span", null, "band"), point = make("span", null, "point");
  band.style.left = place(agreement.low);
  band.style.width = `${(100 * (agreement.high - agreement.low)) / (1 - from)}%`;
  point.style.left = place(agreement.value);
  bar.append(band, point);
  scale.append(make("span", percent(from, 0)), make("span", "100 %"));
  made.append(bar, scale);
  return made;
}

const MEASURES = {same: "agrees with the teacher", bleu: "BLEU against the teacher"};

function arm(one, from, alpha, measure) {
  const made = make("article", null, "card");
  made.append(make("h3", `${one.name}, version ${one.version}`));
  if (one.requests == null) {
    made.append(make("p", "no request yet", "note"));
    return made;
  }
  made.append(list([
    ["share of units", percent(one.share)], ["requests", count(one.requests)],
    ["latency p50 / p95", `${ms(one.p50_ms)} / ${ms(one.p95_ms)}`],
    ["deferred to the teacher", percent(one.deferral)], ["without an answer", percent(one.errors, 2)],
    ["users' reward (0 to 1)", one.reward == null ? "–" : `${one.reward.toFixed(3)} of ${count(one.rewarded)}`],
    [MEASURES[measure], one.agreement.value == null ? "–" : percent(one.agreement.value)],
  ]));
  if (one.agreement.value != null) {
    made.append(range(one.agreement, from));
    made.append(make("p", `${percent(one.agreement.low)} to ${percent(one.agreement.high)} at all times with ` +
      `${percent(1 - alpha, 0)} confidence, ${count(one.agreement.judged)} judged`, "note"));
  }
  return made;
}

function arms(state) {
  at("split").replaceChildren(...state.arms.filter((one) => one.share > 0).map((one) => {
    const made = make("span", `${one.name} ${percent(one.share, one.share < 0.1 ? 1 : 0)}`);
    made.style.flex = `${one.share} 0 0`;
    return made;
  }));
  const lows = state.arms.filter((one) => one.agreement && one.agreement.value != null).map((one) => one.agreement.low);
  const from = Math.floor(10 * Math.min(0.9, ...lows)) / 10;
  at("arms").replaceChildren(...state.arms.map((one) => arm(one, from, state.alpha, state.measure)));
}

function cost(found) {
  const money = found.unit === "money";
  const show = (value) => (value == null ? "–" : money ? value.toPrecision(3) : `${value.toPrecision(3)} s`);
  const rows = [["as served", show(found.served)], ["teacher alone", show(found.teacher)]];
  if (found.ratio != null) rows.push(["of the teacher's", percent(found.ratio)]);
  const note = money ? "Prices are the recipe's." : "Seconds of answering; the recipe's experiment.price_per_hour makes money of them.";
  at("cost").replaceChildren(list(rows), make("p", note, "note"));
}

const WORDS = {
  shadow: "judged in the shadow, no users yet", ramp: "climbing its ramp", full: "at the end of its ramp, evidence is gathered",
  mismatch: "held: units do not fall as asked", by_hand: "held: its share was set by hand", promoted: "promoted",
  rolled_back: "rolled back",
};

// Measures are shares of units that went well: of errors and deferrals those without.
const GOOD = {agreement: "like the teacher's", reward: "reward", errors: "answered", deferrals: "not deferred"};

function experiment(one) {
  const made = make("div"), line = -Math.log10(one.alpha);
  made.append(make("h3", `${one.experiment}: ${WORDS[one.status] || one.status}`));
  const e = (value) => (value / Math.LN10).toFixed(2);
  made.append(table(
    ["measure", "champion", one.arm, "units", "worse", "better", "not worse"],
    Object.entries(one.measures).filter(([, m]) => m.challenger.units || m.champion.units).map(([name, m]) => [
      GOOD[name] || name, percent(m.champion.rate), percent(m.challenger.rate), `${count(m.champion.units)} / ${count(m.challenger.units)}`,
      e(m.log_e_worse), e(m.log_e_better), e(m.log_e_not_worse),
    ])));
  made.append(make("p", `Evidence is log10 of an e-value: ${line.toFixed(1)} shows it at level ${one.alpha}. ` +
    `Split as asked: ${e(one.srm_log_e)}, an alarm at ${e(one.srm_limit)}.`, "note"));
  return made;
}

function experiments(found) {
  at("experiments").replaceChildren(...(found.length ? found.map(experiment) : [make("p", "None: the champion answers all.", "note")]));
}

function drift(found) {
  const rows = Object.entries(found.quality).map(([name, one]) => [
    name, percent(one.value), percent(one.reference), make("td", percent(one.drop), one.drop > found.drop_limit ? "bad" : ""),
  ]);
  const inputs = Object.entries(found.psi).map(([name, value]) => [
    name, make("td", value.toFixed(3), value > found.psi_limit ? "bad" : ""),
  ]);
  const parts = [];
  if (rows.length) parts.push(table(["quality", "now", "at promotion", "drop"], rows));
  if (inputs.length) parts.push(table(["input", `PSI (alarm at ${found.psi_limit})`], inputs));
  at("drift").replaceChildren(...(parts.length ? parts : [make("p", "Not enough requests for a first window yet.", "note")]));
}

function decisions(found) {
  at("decisions").replaceChildren(...(found.length ? found : [null]).map((one) => {
    if (one === null) return make("li", "None yet.", "note");
    const made = make("li"), when = make("time", new Date(one.at).toISOString().replace("T", " ").slice(0, 19));
    const bad = one.decision === "rollback" || one.decision === "recurate" || one.kind === "srm";
    const rates = one.value == null ? "" : `, ${one.value.toPrecision(3)} against ${one.reference.toPrecision(3)} (${count(one.rows)} judged)`;
    made.append(when, make("strong", one.kind === "canary" ? "ramp" : one.decision, bad ? "bad" : ""),
      ` by ${one.kind}: ${one.metric} of version ${one.version}${rates}`);
    if (one.not_done) made.append(make("div", `not done: ${one.not_done}`, "bad"));
    return made;
  }));
}

function say(words, bad) {
  at("status").textContent = words;
  at("status").className = bad ? "bad" : "";
}

const given = () => at("key").value.trim();
const withKey = () => (given() ? {authorization: `Bearer ${given()}`} : {});
let refused = null; // the key that was not let in, "" for none: it is not tried again

async function look() {
  const key = given();
  if (key === refused) return;
  try {
    const answered = await fetch("/ui/state", {cache: "no-store", headers: withKey()});
    const state = await answered.json();
    if (answered.status === 401) {
      refused = key;
      at("entry").hidden = false;
      say(key ? "this key is not known here" : "an API key is needed", true);
      return;
    }
    if (!answered.ok) {
      say("the monitor is on its way up", true);
      return;
    }
    at("model").textContent = state.model;
    say(`live, ${new Date(state.at_ms).toLocaleTimeString("en-GB")}`, false);
    arms(state); cost(state.cost); experiments(state.experiments); drift(state.drift); decisions(state.decisions);
    document.body.dataset.ready = "yes";
  } catch (error) {
    say(`no answer: ${error.message}`, true);
  }
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return btoa(text);
}

async function ask(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    const images = await Promise.all([...at("images").files].map(base64));
    const headers = {"content-type": "application/json", ...withKey()};
    const answered = await fetch("/v1/predict", {method: "POST", headers, body: JSON.stringify({text: at("text").value, images})});
    const found = await answered.json();
    if (!answered.ok) {
      at("answer").replaceChildren(make("p", `${found.title} ${found.detail}`, "bad"));
      return;
    }
    at("answer").replaceChildren(make("strong", found.text), list([
      ["confidence", percent(found.confidence)], ["latency", ms(found.latency_ms)], ["arm", found.arm],
      ["answered by", `${found.model} ${found.version}`], ["fell back", found.fell_back ? `yes: ${found.reason}` : found.reason || "no"],
      ["request", found.request_id],
    ]));
  } catch (error) {
    at("answer").replaceChildren(make("p", `no answer: ${error.message}`, "bad"));
  } finally {
    button.disabled = false;
  }
}

at("try").addEventListener("submit", ask);
at("enter").addEventListener("submit", (event) => { event.preventDefault(); refused = null; look(); });
look();
setInterval(look, EVERY_MS);
