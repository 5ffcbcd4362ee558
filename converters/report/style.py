"""The style sheet of the page: light and dark, for paper, screens and phones; nothing is fetched."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5a6470; --paper: #ffffff; --card: #f5f6f8; --line: #d9dde2;
  --good: #116d3c; --bad: #b3261e; --mark: #1f5fbf; --int8: #1f5fbf; --wide: #8a5a00; --float: #9b3fa0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #a2acb8; --paper: #14171b; --card: #1d2126;
  --line: #353b43; --good: #5fce92; --bad: #ff8a80; --mark: #8ab4f8; --int8: #8ab4f8; --wide: #e3b341;
  --float: #d9a0dd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Liberation Sans", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .35rem 0; } .soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.verdict { font-size: 1.1rem; font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: normal; white-space: nowrap; }
td.prose { white-space: normal; min-width: 14rem; max-width: 40rem; }
th { color: var(--soft); font-weight: 600; } td.n { text-align: right;
  font-variant-numeric: tabular-nums; } th.n { text-align: right; }
.tag { display: inline-block; padding: 0 .45rem; border: 1px solid var(--line); border-radius: .6rem; font-size: .8rem;
  background: var(--card); white-space: nowrap; }
.tag.emulated { color: var(--bad); } .tag.host, .tag.device { color: var(--good); }
.tag.int8 { color: var(--int8); } .tag.wide { color: var(--wide); } .tag.float { color: var(--float); }
.chosen td:first-child { font-weight: 700; color: var(--mark); }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
code, pre { font: .86rem/1.45 "DejaVu Sans Mono", ui-monospace, monospace; }
pre { background: var(--card); padding: .7rem; white-space: pre-wrap; border-radius: .4rem; }
img { height: 2rem; background: #fff; border-radius: .2rem; }
svg text { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
.grid svg text { stroke: var(--card); }
svg text { fill: var(--ink); font: 12px "Liberation Sans", "DejaVu Sans", sans-serif; }
svg text.soft { fill: var(--soft); } svg text.end { text-anchor: end; } svg text.middle { text-anchor: middle; }
svg .axis { stroke: var(--line); stroke-width: 1; } svg .gate { stroke: var(--bad); stroke-dasharray: 5 4; }
svg .gatetext { fill: var(--bad); } svg .dot { fill: var(--ink); } svg .dot.chosen { fill: var(--mark); }
svg .ring { fill: none; stroke: var(--mark); stroke-width: 2; } svg .below text, svg .below .dot { fill: var(--soft); }
svg text.chosen { fill: var(--mark); font-weight: 700; }
svg .lead { stroke: var(--soft); stroke-width: .7; } svg .front { fill: none; stroke: var(--mark); opacity: .5; }
svg .bin { fill: var(--soft); } svg .kept { fill: var(--mark); opacity: .13; }
svg .bound { stroke: var(--mark); stroke-width: 1.5; }
.plot { min-width: 36rem; width: 100%; height: auto; display: block; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
figure { margin: .4rem 0; } .grid figure { background: var(--card); border-radius: .4rem; padding: .6rem; }
figcaption { font-size: .85rem; color: var(--soft); } figcaption b { color: var(--ink); }
.grid svg { width: 100%; height: auto; display: block; }
.bar { width: 100%; min-width: 12rem; height: .9rem; display: block; background: var(--card); border-radius: .2rem; }
.bar .int8 { fill: var(--int8); } .bar .wide { fill: var(--wide); } .bar .float { fill: var(--float); }
.bar .p0 { fill: var(--int8); } .bar .p1 { fill: var(--wide); } .bar .p2 { fill: var(--float); }
"""
