extension ExporterPage {
    static let html = """
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>dtlsd</title>
        <link rel="icon" href="icon.svg">
        <link rel="stylesheet" href="page.css">
        <script src="page.js" defer></script>
        </head>
        <body>
        <a class="skip" href="#main">Skip to the content</a>
        <header>
        <h1>dtlsd</h1>
        <p id="state" role="status" aria-live="polite" data-state="waiting">Asking…</p>
        <p id="about"></p>
        <button id="pause" type="button" aria-pressed="false">Pause</button>
        <nav aria-label="Sections"><ul id="sections"></ul></nav>
        </header>
        <main id="main" tabindex="-1">
        <noscript><p class="problem">This page needs JavaScript. The numbers are at <a href="metrics">/metrics</a>.</p></noscript>
        <div id="away" class="problem" hidden></div>
        <div id="problems" class="problem" hidden></div>
        <section id="attention" class="problem" aria-label="What needs attention" hidden></section>
        <dl id="tiles" aria-label="Now"></dl>
        <section id="plots" aria-labelledby="plots-title" hidden>
        <h2 id="plots-title">The last minutes</h2>
        <div class="plots"></div>
        </section>
        <div id="tables"></div>
        </main>
        <footer><p>Metrics for Prometheus: <a href="metrics">/metrics</a>. The same in a terminal: <code>dtls top</code>, \
        <code>dtls status</code>. Times are of this browser's zone.</p></footer>
        </body>
        </html>

        """

    static let css = """
        :root { color-scheme: light dark; --text: #16202b; --dim: #55626f; --ground: #f4f6f8; --card: #fff; --line: #d5dce3;
          --one: #1c6dd0; --two: #b3500b; --good: #17713a; --bad: #b3201f; --warn: #7d5700; --badground: #fdeceb; }
        @media (prefers-color-scheme: dark) {
          :root { --text: #e3e9ef; --dim: #9fadba; --ground: #11161c; --card: #1a2129; --line: #323d48;
            --one: #6cb0ff; --two: #f2a25c; --good: #5fcf86; --bad: #ff8a80; --warn: #e8bd55; --badground: #3a1d1d; } }
        * { box-sizing: border-box; }
        body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
        header, main, footer { max-width: 1200px; margin: 0 auto; padding: 0 16px; }
        header { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; padding-top: 14px; }
        h1 { font-size: 24px; margin: 0; }
        h2 { font-size: 17px; margin: 22px 0 8px; }
        h3 { font-size: 14px; margin: 0; }
        header p { margin: 0; }
        #about { color: var(--dim); flex: 1 1 240px; }
        #state { font-weight: 600; border: 2px solid currentColor; border-radius: 999px; padding: 1px 12px; color: var(--dim); }
        #state[data-state=ready] { color: var(--good); }
        #state[data-state=unready] { color: var(--warn); }
        #state[data-state=away] { color: var(--bad); }
        button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--dim); border-radius: 6px;
          padding: 5px 14px; min-height: 34px; cursor: pointer; }
        nav { flex: 1 0 100%; }
        nav ul { display: flex; flex-wrap: wrap; gap: 2px 16px; list-style: none; margin: 6px 0 0; padding: 0; }
        nav a { display: inline-block; padding: 4px 0; }
        a { color: var(--one); }
        :focus-visible { outline: 3px solid var(--one); outline-offset: 2px; }
        main:focus { outline: none; }
        .skip { position: absolute; left: -9999px; }
        .skip:focus { left: 8px; top: 8px; background: var(--card); padding: 8px 14px; z-index: 1; }
        .problem { background: var(--badground); border-left: 5px solid var(--bad); border-radius: 4px; padding: 10px 14px;
          margin: 14px 0; overflow-wrap: anywhere; }
        .problem p { margin: 0; } .problem p + p, .problem ul { margin: 6px 0 0; }
        #tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 10px; margin: 16px 0 0; }
        #tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
        #tiles dt { color: var(--dim); font-size: 13px; }
        #tiles dd { margin: 0; font-size: 22px; font-variant-numeric: tabular-nums; }
        #attention { background: var(--card); border-left-color: var(--warn); }
        #attention ul { margin: 0; padding-left: 18px; }
        .stale { opacity: .55; }
        .plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 10px; }
        figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
        figcaption { margin-bottom: 6px; }
        .legend { display: flex; flex-wrap: wrap; gap: 0 14px; font-size: 13px; font-variant-numeric: tabular-nums; }
        .legend span::before { content: ""; display: inline-block; width: 16px; margin-right: 6px; vertical-align: 3px;
          border-top: 3px solid var(--one); }
        .legend span + span::before { border-top: 3px dashed var(--two); }
        svg { display: block; width: 100%; height: 110px; }
        svg .grid { stroke: var(--line); stroke-width: 1; }
        svg .line { fill: none; stroke: var(--one); stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
        svg .line + .line { stroke: var(--two); stroke-dasharray: 5 3; }
        .axis { display: flex; justify-content: space-between; color: var(--dim); font-size: 12px; }
        .scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
        table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
        th, td { padding: 6px 9px; text-align: left; border-top: 1px solid var(--line); white-space: nowrap; }
        thead th { border-top: 0; color: var(--dim); font-size: 13px; font-weight: 600; }
        tbody th { font-weight: 600; }
        td.text { white-space: normal; overflow-wrap: break-word; }
        .number { text-align: right; }
        .good { color: var(--good); } .warn { color: var(--warn); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
        .none { color: var(--dim); margin: 0; padding: 8px 12px; }
        footer { color: var(--dim); padding-top: 18px; padding-bottom: 28px; }
        @media (max-width: 640px) {
          header, main, footer { padding-left: 12px; padding-right: 12px; }
          #tiles { grid-template-columns: repeat(2, 1fr); }
          .second { display: none; }
          button { margin-left: auto; }
          #about { flex: 1 0 100%; order: 1; }
          nav { order: 2; }
          th, td { padding: 6px 7px; white-space: normal; }
          nav a { padding: 7px 0; }
        }
        @media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }

        """

    static let javaScript = #"""
        "use strict";
        // Asks for /status.json every two seconds, and shows it. All text is set as text, never as HTML.
        // It begins with the last minutes, which the exporter has kept: /history.json.
        const interval = 2000, keptSeconds = 600;
        const byId = id => document.getElementById(id);
        function make(tag, attributes, ...children) {
          const svg = ["svg", "polyline", "line"].includes(tag);
          const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
          for (const [name, value] of Object.entries(attributes || {})) {
            if (value !== undefined && value !== false) node.setAttribute(name, value);
          }
          node.append(...children);
          return node;
        }

        // Numbers for people.
        function number(x) {
          if (x === undefined || x === null || !isFinite(x)) return "–";
          return x.toLocaleString("en", { maximumFractionDigits: x > 0 && x < 10 && x % 1 ? 1 : 0 });
        }
        function rate(x) { return x > 0 && x < 0.05 ? "<0.1" : number(x); }
        function bytes(x) {
          if (x === undefined || x === null || !isFinite(x)) return "–";
          for (const unit of ["B", "KiB", "MiB", "GiB"]) {
            if (x < 1023.5) return (x < 99.95 && unit !== "B" ? x.toFixed(1) : number(Math.round(x))) + " " + unit;
            x /= 1024;
          }
          return number(x) + " TiB";
        }
        function seconds(x) {
          if (x === undefined || x === null || !isFinite(x)) return "–";
          if (x < 0.001) return number(Math.round(x * 1e6)) + " µs";
          return x < 1 ? number(Math.round(x * 1e4) / 10) + " ms" : number(x) + " s";
        }
        function span(x) {
          x = Math.max(0, Math.floor(x));
          const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
          const first = parts.findIndex(([size]) => x >= size);
          if (first < 0) return "0 s";
          return parts.slice(first, first + 2).map(([size, unit], i) =>
            Math.floor((i ? x % parts[first][0] : x) / size) + " " + unit).filter(t => !t.startsWith("0 ")).join(" ");
        }
        function time(text) {
          const t = new Date(text), today = new Date().toDateString() === t.toDateString();
          return today ? t.toLocaleTimeString("en-GB") : t.toLocaleDateString("en-CA") + " " + t.toLocaleTimeString("en-GB");
        }
        const day = text => text.slice(0, 10);

        // Counters.
        function sum(counters, name, only) {
          const value = (counters || {})[name];
          if (value === undefined) return 0;
          if (typeof value === "number") return value;
          if (value.counts) return value.counts.reduce((a, b) => a + b, 0);
          return Object.entries(value).filter(([k]) => !only || only(k)).reduce((a, [, b]) => a + b, 0);
        }
        const succeeded = k => k === "full" || k === "resumed";
        const wrong = k => !["full", "resumed", "cancelled", "abandoned", "closed_here"].includes(k);
        const targets = status => [...status.services, ...status.clients];
        const over = (status, f) => targets(status).reduce((a, t) => a + f(t.counters), 0);
        const measures = {
          handshakes: c => sum(c, "handshakes_total", succeeded), failed: c => sum(c, "handshakes_total", wrong),
          refused: c => sum(c, "refusals_total"), dropped: c => sum(c, "datagrams_dropped_total"),
          messagesIn: c => sum(c, "messages_received_total"), messagesOut: c => sum(c, "messages_sent_total"),
          bytesIn: c => sum(c, "message_received_bytes_total"), bytesOut: c => sum(c, "message_sent_bytes_total"),
        };
        function histogram(counters, name) {
          const value = (counters || {})[name];
          return value && value.counts ? value : null;
        }
        function added(list) {
          list = list.filter(h => h);
          if (!list.length) return null;
          return { bounds: list[0].bounds_seconds, counts: list[0].counts.map((_, i) =>
            list.reduce((a, h) => a + (h.counts[i] || 0), 0)) };
        }
        // The bound of the bucket in which the quantile lies, of what was counted since `before`.
        function quantile(now, before, share) {
          if (!now) return undefined;
          const counts = now.counts.map((c, i) => c - (before ? before.counts[i] || 0 : 0));
          const total = counts.reduce((a, b) => a + b, 0);
          if (!(total > 0) || counts.some(c => c < 0)) return undefined;
          let left = share * total;
          for (let i = 0; i < counts.length; i++) {
            left -= counts[i];
            if (left <= 0) return i < now.bounds.length ? now.bounds[i] : now.bounds[now.bounds.length - 1] * 2;
          }
        }
        const handshakeTimes = status => added(targets(status).map(t => histogram(t.counters, "handshake_duration_seconds")));

        // What is shown.
        let last = null, history = [], paused = false, unreachableSince = null;
        function perSecond(now, before, elapsed, f) {
          const difference = before ? f(now) - f(before) : NaN;
          return difference >= 0 && elapsed > 0 ? difference / elapsed : undefined;
        }
        function ratesOf(status, before, elapsed) {
          const rates = {};
          for (const [name, f] of Object.entries(measures)) {
            rates[name] = perSecond(status, before, elapsed, s => over(s, f));
          }
          return rates;
        }
        const plots = [
          { title: "Handshakes a second", lines: [["succeeded", p => p.handshakes], ["failed", p => p.failed]], format: rate },
          { title: "Handshake time, at most", lines: [["half of them", p => p.half], ["99 %", p => p.most]], format: seconds },
          { title: "Messages a second", lines: [["received", p => p.messagesIn], ["sent", p => p.messagesOut]], format: rate },
          { title: "Bytes a second", lines: [["received", p => p.bytesIn], ["sent", p => p.bytesOut]], format: bytes },
          { title: "Connections", lines: [["open", p => p.open], ["parked", p => p.parked]], format: number },
          { title: "Refused and dropped a second", lines: [["refused", p => p.refused], ["dropped", p => p.dropped]], format: rate },
        ];
        function preparePlots() {
          for (const plot of plots) {
            plot.svg = make("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" });
            plot.legend = make("div", { class: "legend" });
            plot.from = make("span"); plot.top = make("span"); plot.to = make("span", {}, "now");
            document.querySelector(".plots").append(make("figure", {},
              make("figcaption", {}, make("h3", {}, plot.title), plot.legend), make("div", { class: "axis" }, plot.top),
              plot.svg, make("div", { class: "axis" }, plot.from, plot.to)));
          }
        }
        function nice(x) {
          const power = 10 ** Math.floor(Math.log10(x));
          return [1, 2, 5, 10].map(f => f * power).find(y => y >= x * 0.999) || x;
        }
        function drawPlots() {
          const end = history.length ? history[history.length - 1].at : 0;
          const start = Math.min(history.length ? history[0].at : 0, end - 30);
          for (const plot of plots) {
            const values = plot.lines.flatMap(([, f]) => history.map(f)).filter(v => v !== undefined);
            const largest = Math.max(0, ...values);
            const top = plot.format === bytes ? largest || 1 : nice(largest || 1);
            plot.svg.replaceChildren(...[0, 50, 100].map(y => make("line", { class: "grid", x1: 0, x2: 300, y1: y, y2: y })),
              ...plot.lines.map(([, f]) => make("polyline", { class: "line", points: history
                .filter(p => f(p) !== undefined)
                .map(p => (300 * (p.at - start) / (end - start)).toFixed(1) + "," + (98 - 96 * f(p) / top).toFixed(1))
                .join(" ") })));
            const said = plot.lines.map(([name, f]) => {
              const known = history.map(f).filter(v => v !== undefined);
              return name + " " + (known.length ? plot.format(known[known.length - 1]) : "–");
            });
            plot.legend.replaceChildren(...said.map(text => make("span", {}, text)));
            plot.svg.setAttribute("aria-label", plot.title + ": " + said.join(", ") + "; at most " + plot.format(largest)
              + " in the last " + span(end - start));
            plot.top.textContent = values.length ? plot.format(top) : "nothing yet";
            plot.from.textContent = span(end - start) + " ago";
          }
        }

        function tiles(status, rates) {
          const c = status.connections;
          const shown = [["Connections", number(c.open)], ["In handshakes", number(c.handshaking)], ["Parked", number(c.parked)],
            ["Handshakes/s", rate(rates.handshakes)], ["Failed/s", rate(rates.failed), rates.failed > 0 ? "bad" : ""],
            ["Refused/s", rate(rates.refused), rates.refused > 0 ? "warn" : ""],
            ["Messages in/s", rate(rates.messagesIn)], ["Messages out/s", rate(rates.messagesOut)]];
          byId("tiles").replaceChildren(...shown.map(([name, value, tone]) =>
            make("div", {}, make("dt", {}, name), make("dd", { class: tone || false }, value))));
        }

        // A column: its title, its kind (text, number; second where a phone leaves it out), and what a row has there: a
        // text, or a text and its tone.
        function table(id, title, rows, columns, none) {
          let section = byId(id);
          if (!section) {
            section = make("section", { id, "aria-labelledby": id + "-title" }, make("h2", { id: id + "-title" }, title),
              make("div", { class: "scroll", role: "region", tabindex: 0, "aria-labelledby": id + "-title" }));
            byId("tables").append(section);
            byId("sections").append(make("li", {}, make("a", { href: "#" + id }, title)));
          }
          const box = section.querySelector(".scroll"), at = box.scrollLeft;
          const cells = row => columns.map(([, kind, f], i) => {
            const value = f(row), [text, tone] = Array.isArray(value) ? value : [value, ""];
            return make(i ? "td" : "th", { scope: i ? false : "row", class: kind + (tone ? " " + tone : "") }, text);
          });
          box.replaceChildren(rows.length ? make("table", {},
            make("thead", {}, make("tr", {}, ...columns.map(([name, kind]) => make("th", { scope: "col", class: kind }, name)))),
            make("tbody", {}, ...rows.map(row => make("tr", {}, ...cells(row))))) : make("p", { class: "none" }, none));
          box.scrollLeft = at;
        }
        function find(list, key, value) { return (list || []).find(x => x[key] === value); }

        function tables(status, before, elapsed) {
          const of = (t, list, f) => {
            const former = before && find(before[list], "name", t.name);
            return rate(perSecond(t.counters, former && former.counters, elapsed, f));
          };
          const rows = ["services", "clients"].flatMap(list => status[list].map(t => ({ t, list })));
          table("services", "Services", rows, [
            ["Name", "text", r => r.t.name], ["Handler", "second", r => r.t.handler],
            ["Listens on", "second", r => r.t.listen.join(" ")],
            ["Open", "number", r => number(r.t.connections.open)],
            ["Handshaking", "number second", r => number(r.t.connections.handshaking)],
            ["Parked", "number second", r => number(r.t.connections.parked)],
            ["Handshakes/s", "number", r => of(r.t, r.list, measures.handshakes)],
            ["Failed", "number", r => [number(measures.failed(r.t.counters)), ""]],
            ["Messages in/s", "number", r => of(r.t, r.list, measures.messagesIn)],
            ["Out/s", "number second", r => of(r.t, r.list, measures.messagesOut)],
            ["Received", "number second", r => bytes(measures.bytesIn(r.t.counters))],
            ["Sent", "number second", r => bytes(measures.bytesOut(r.t.counters))],
          ], "No service is configured.");
          const backends = rows.flatMap(({ t }) => t.backends.map(b => ({ t, b })));
          table("backends", "Backends", backends, [
            ["Of", "text", r => r.t.name], ["Rule", "second", r => r.b.rule || ""],
            ["Backend", "text", r => r.b.address],
            ["State", "text", r => [r.b.state, { up: "good", down: "bad" }[r.b.state]]],
          ], "No service has a backend.");
          const certificates = [...status.certificates].sort((a, b) => a.days_left - b.days_left);
          table("certificates", "Certificates", certificates, [
            ["Of", "text", c => c.service || c.client || ""], ["Server name", "second", c => c.name || "any other"],
            ["Subject", "text", c => c.subject], ["Not after", "second", c => day(c.not_after_at)],
            ["Days left", "number", c => c.days_left < 0 ? ["expired", "bad"]
              : [number(c.days_left) + (c.days_left < 30 ? " – renew it" : ""), c.days_left < 7 ? "bad" : c.days_left < 30 ? "warn" : ""]],
          ], "No service has a certificate.");
          table("workers", "Workers", status.workers, [
            ["Worker", "text", w => number(w.number)], ["Process", "number second", w => String(w.pid)],
            ["State", "text", w => [w.state, w.state === "serving" ? "good" : "warn"]],
            ["Since", "second", w => time(w.since_at)],
            ["Connections", "number", w => number(w.connections)], ["Sockets", "number second", w => number(w.sockets)],
            ["Messages in/s", "number second", w => {
              const former = find(before && before.workers, "number", w.number);
              return rate(perSecond(w.counters, former && former.counters, elapsed, measures.messagesIn));
            }],
            ["Memory", "number second", w => bytes(w.memory_bytes)],
            ["Descriptors", "number", w => w.open_files === undefined || !w.open_files_limit ? number(w.open_files)
              : [number(w.open_files) + " of " + number(w.open_files_limit), w.open_files > 0.75 * w.open_files_limit ? "bad" : ""]],
            ["Loop, 99 %", "number second", w => {
              const turns = added([histogram(w.counters, "loop_turn_duration_seconds")]);
              const q = quantile(turns, null, 0.99);
              return q === undefined ? "–" : "≤ " + seconds(q);
            }],
          ], "There is no worker.");
          const reasons = [["refusals_total", "refused"], ["handshakes_total", "handshake failed"],
            ["datagrams_dropped_total", "dropped"]].flatMap(([name, what]) => rows.flatMap(({ t, list }) =>
              Object.entries(t.counters[name] || {}).filter(([k, n]) => n > 0 && (name !== "handshakes_total" || wrong(k)))
                .map(([k, n]) => {
                  const former = before && find(before[list], "name", t.name);
                  const was = former && former.counters[name] ? former.counters[name][k] || 0 : undefined;
                  return { what, k, t, n, rate: was !== undefined && n >= was && elapsed > 0 ? (n - was) / elapsed : undefined };
                })));
          for (const l of status.listeners) {
            const n = sum(l.counters, "listener_queue_drops_total");
            if (n > 0) reasons.push({ what: "dropped by the kernel at", k: l.address, t: { name: l.service || l.client || "" }, n });
          }
          reasons.sort((a, b) => (b.rate || 0) - (a.rate || 0) || b.n - a.n);
          table("refusals", "Refused, failed, dropped", reasons, [
            ["What", "text", r => r.what + ": " + r.k.replaceAll("_", " ")], ["Of", "text", r => r.t.name],
            ["A second", "number", r => rate(r.rate)], ["In all", "number", r => number(r.n)],
          ], "Nothing was refused or dropped.");
        }

        function attention(status, before, elapsed, rates) {
          const found = [], of = x => x.service || x.client || "";
          for (const c of status.certificates.filter(c => c.days_left < 30)) {
            const name = "The certificate of " + of(c) + (c.name ? " for " + c.name : "");
            found.push(c.days_left < 0 ? name + " has expired." : name + " expires "
              + (c.days_left === 0 ? "within a day." : "in " + c.days_left + (c.days_left === 1 ? " day." : " days.")));
          }
          for (const t of targets(status)) {
            for (const b of t.backends.filter(b => b.state === "down")) {
              found.push((t.handler === "client" ? "The server " : "The backend ") + b.address + " of " + t.name + " is out"
                + (b.check_failure ? ": " + b.check_failure : "") + ".");
            }
          }
          for (const w of status.workers) {
            if (w.state !== "serving") found.push("Worker " + w.number + " is " + w.state + ".");
            if (w.open_files_limit && w.open_files > 0.75 * w.open_files_limit) {
              found.push("Worker " + w.number + " has " + number(w.open_files) + " of " + number(w.open_files_limit) + " descriptors open.");
            }
          }
          if (rates.failed > Math.max(0.1 * (rates.handshakes + rates.failed), 0.02)) {
            found.push("Handshakes fail: " + rate(rates.failed) + " a second.");
          }
          for (const l of status.listeners) {
            const former = find(before && before.listeners, "address", l.address);
            const lost = perSecond(l.counters, former && former.counters, elapsed, c => sum(c, "listener_queue_drops_total"));
            if (lost > 0) found.push("The kernel drops " + rate(lost) + " datagrams a second at " + l.address + ".");
          }
          const shown = found.slice(0, 8);
          if (found.length > shown.length) shown.push("And " + (found.length - shown.length) + " more.");
          note("attention", ...(shown.length ? [make("ul", {}, ...shown.map(text => make("li", {}, text)))] : []));
        }

        function say(state, text) {
          const node = byId("state");
          if (node.textContent !== text) node.textContent = text;
          node.dataset.state = state;
          document.title = text + " · dtlsd";
        }
        // What has not changed stays, so that nobody loses the place or hears it again.
        function note(id, ...children) {
          const text = children.map(c => c.textContent).join("\n"), node = byId(id);
          node.hidden = !children.length;
          if (node.dataset.said === text) return;
          node.dataset.said = text;
          node.replaceChildren(...children);
        }
        function stale(isStale) {
          for (const id of ["tiles", "plots", "tables", "attention"]) byId(id).classList.toggle("stale", isStale);
        }

        function away(title, ...texts) {
          say("away", title);
          stale(true);
          note("away", ...texts.map(text => make("p", {}, text)));
        }
        // Another process has other counters.
        const sameProcess = (one, other) => one.status.pid === other.status.pid && one.status.since_at === other.status.since_at;
        // Puts a point of the plots behind the others: a gap where the daemon was away. Its rates are those since the last.
        // All times are by the clock of the exporter's machine, which begins again when that does.
        function record(data) {
          const at = data.clock_seconds;
          if (history.length && at < history[history.length - 1].at) { history = []; last = null; }
          history = history.filter(point => point.at >= at - keptSeconds);
          if (!data.up) {
            if (history.length) history.push({ at });
            last = null;
            return null;
          }
          const before = last && sameProcess(last, data) ? last.status : null, status = data.status;
          const elapsed = before ? at - last.clock_seconds : 0;
          const rates = ratesOf(status, before, elapsed);
          const times = handshakeTimes(status), formerTimes = before && handshakeTimes(before);
          history.push({ at, ...rates, open: status.connections.open, parked: status.connections.parked,
            half: before ? quantile(times, formerTimes, 0.5) : undefined, most: before ? quantile(times, formerTimes, 0.99) : undefined });
          last = data;
          return { before, elapsed, rates };
        }
        // There is nothing to plot before the first answer.
        function showPlots() {
          if (!history.some(point => point.open !== undefined)) return;
          byId("plots").hidden = false;
          drawPlots();
        }
        function show(data) {
          unreachableSince = null;
          const point = record(data);
          if (!data.up) {
            const gone = (new Date(data.now_at) - new Date(data.away_since_at)) / 1000;
            const since = "dtlsd has not answered since " + time(data.away_since_at) + (gone >= 1 ? ", for " + span(gone) : "") + ".";
            away("away", since, data.reason || "", data.last_answer_at
              ? "Its last answer came at " + time(data.last_answer_at) + "."
              : "It has never answered this exporter.");
            showPlots();
            return;
          }
          const status = data.status, { before, elapsed, rates } = point;
          say(status.ready ? "ready" : "unready", status.ready && status.phase === "serving" ? "ready" : status.phase);
          stale(false);
          note("away");
          byId("about").textContent = "Version " + status.version + " with " + status.openssl.split(" ").slice(0, 2).join(" ")
            + ", process " + status.pid + ", up " + span(status.uptime_seconds);
          const configuration = status.configuration;
          note("problems", ...(configuration.failed_at ? [
            make("p", {}, "The last reload or upgrade has failed at " + time(configuration.failed_at)
              + "; the configuration from before is active."),
            make("ul", {}, ...configuration.problems.map(text => make("li", {}, text)))] : []));
          tiles(status, rates);
          showPlots();
          tables(status, before, elapsed);
          attention(status, before, elapsed, rates);
        }
        // Without what was before, the page is still worth something.
        async function begin() {
          try {
            const response = await fetch("history.json", { cache: "no-store", signal: AbortSignal.timeout(10000) });
            if (response.ok) for (const sample of await response.json()) record(sample);
          } catch (error) { history = []; last = null; }
          ask();
        }
        async function ask() {
          if (!paused) {
            try {
              const response = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(10000) });
              if (!response.ok) throw new Error("HTTP " + response.status);
              const data = await response.json();
              if (!paused) show(data);
            } catch (error) {
              unreachableSince = unreachableSince || new Date();
              away("exporter away", "The exporter has not answered this page since " + time(unreachableSince)
                + ". It has ended, or the network is away. What is below is older.");
            }
          }
          setTimeout(ask, interval);
        }
        byId("pause").addEventListener("click", event => {
          paused = !paused;
          event.currentTarget.setAttribute("aria-pressed", String(paused));
          event.currentTarget.textContent = paused ? "Go on" : "Pause";
        });
        preparePlots();
        begin();

        """#
}
