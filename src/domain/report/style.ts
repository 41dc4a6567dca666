/** The report's style sheet: light and dark, on paper too. It holds no text of the world. */
export const style = `
:root { color-scheme: light dark; --bg: #fbfaf8; --card: #fff; --ink: #1d2126; --soft: #626b76; --line: #e3e0da;
  --accent: #2f5d8c; --work: #7aa2c9; --wait: #e0b95c; --good: #1d6b3a; --good-bg: #dff2e5; --warn: #7a5200;
  --warn-bg: #fdf0cf; --bad: #9b1c1c; --bad-bg: #fbe1e0; --calm-bg: #eceae6; }
@media (prefers-color-scheme: dark) { :root { --bg: #15181c; --card: #1d2126; --ink: #e7e9ec; --soft: #99a3af;
  --line: #323840; --accent: #8fbbe6; --work: #4c7aa8; --wait: #a98632; --good: #8fd6a8; --good-bg: #1c3a28;
  --warn: #f0cf87; --warn-bg: #40320f; --bad: #f3a5a1; --bad-bg: #4a1d1c; --calm-bg: #2b3138; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 0 0 .7rem; }
section section h2 { font-size: .95rem; margin-top: 1.2rem; }
.eyebrow { margin: 0; color: var(--soft); font-size: .8rem; text-transform: uppercase; letter-spacing: .08em; }
.versions { color: var(--accent); font-weight: 500; white-space: nowrap; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.25rem 1.4rem;
  margin-bottom: 1rem; }
section section { border: 0; padding: 0; margin: 0; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .5rem 1.5rem; margin: 1rem 0 0; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; }
.numbers strong { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.numbers small { display: block; color: var(--soft); }
.lane { position: relative; height: 1.9rem; margin-bottom: 3px; }
.lane div { position: absolute; inset-block: 0; min-width: 2px; border-radius: 4px; border-right: 1px solid var(--card);
  display: flex; align-items: center; justify-content: center; overflow: hidden; font-size: .75rem; color: #10151b; }
.work { background: var(--work); } .wait { background: var(--wait); }
.legend { margin: .5rem 0 0; color: var(--soft); font-size: .8rem; }
.legend span { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .8em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: .8rem; }
th, td { padding: .38rem .7rem .38rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
td:first-child { white-space: nowrap; }
.time { font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.gate td { background: color-mix(in srgb, var(--wait) 16%, transparent); }
tr.pending td, tr.skipped td { color: var(--soft); }
code { font: .82em ui-monospace, monospace; overflow-wrap: anywhere; }
td code { display: inline-block; min-width: 12rem; word-break: break-all; }
.pill { display: inline-block; border-radius: 999px; padding: .05rem .6rem; font-size: .8rem; font-weight: 600;
  white-space: nowrap; background: var(--calm-bg); }
.good { background: var(--good-bg); color: var(--good); } .warn { background: var(--warn-bg); color: var(--warn); }
.bad { background: var(--bad-bg); color: var(--bad); }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; }
dl.evidence { display: grid; grid-template-columns: minmax(9rem, 16rem) 1fr; gap: .25rem 1rem; font-size: .9rem; }
dl.evidence ul { margin: 0; padding-left: 1.1rem; }
footer { color: var(--soft); font-size: .8rem; padding: .5rem .2rem; }
@media print { body { background: #fff; } header, section { break-inside: avoid; } details { display: block; } }
`;
