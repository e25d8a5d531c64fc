"""How a report looks: on a wide screen, on a telephone, in the dark and on paper."""

STYLE = """
:root {
  --paper: #ffffff; --panel: #f5f6f8; --ink: #1b1d21; --muted: #555b66; --rule: #d5d8de;
  --good: #0b6b3a; --mark: #e6f4ec;
  --s0: #0b5cc2; --s1: #b3470b; --s2: #0f766e; --s3: #7c2fd6; --bar: #9aa3b2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --panel: #1d2026; --ink: #e7e9ed; --muted: #a6adba; --rule: #363b45;
    --good: #6fdc9f; --mark: #17301f;
    --s0: #6cb2ff; --s1: #ffa35c; --s2: #4fd1c5; --s3: #c7a3ff; --bar: #5d6676;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.4rem; line-height: 1.2; margin: 0 0 4px; }
main > h2 { margin-top: 36px; }
h3 { font-size: 1.1rem; margin: 36px 0 8px; }
article { border-top: 3px solid var(--rule); margin-top: 48px; padding-top: 24px; }
p { margin: 6px 0; max-width: 80ch; }
a { color: var(--s0); }
.sub, .note { color: var(--muted); }
.note { font-size: 0.9rem; max-width: 90ch; }
.verdict { font-size: 1.1rem; margin: 12px 0 16px; max-width: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 16px 0; padding: 0; list-style: none; }
.cards li { background: var(--panel); border-radius: 8px; padding: 12px 14px; }
.cards b { display: block; font-size: 1.5rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.cards span { color: var(--muted); font-size: 0.85rem; line-height: 1.3; display: block; }
table { border-collapse: collapse; width: 100%; margin: 12px 0; font-size: 0.92rem; }
caption { text-align: left; color: var(--muted); padding-bottom: 4px; }
th, td { text-align: left; vertical-align: top; padding: 6px 16px 6px 0;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
thead th { color: var(--muted); font-size: 0.85rem; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
table.stacked td.number, table.stacked th.number { white-space: nowrap; }
tr.marked > * { background: var(--mark); }
tr.marked > th { color: var(--good); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 20px 32px; align-items: start; }
.plots section > h3 { margin-top: 16px; }
figure { margin: 0; }
figcaption { color: var(--muted); font-size: 0.9rem; }
.plot { display: block; width: 100%; max-width: 600px; height: auto; font-size: 12.5px;
  font-family: inherit; }
.plot text { fill: var(--ink); }
.plot .muted, .plot .tick { fill: var(--muted); }
.plot .strong { font-weight: 650; }
.plot .name { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.plot .grid { stroke: var(--rule); stroke-width: 1; }
.plot .axis { stroke: var(--muted); stroke-width: 1; }
.plot .floor { stroke: var(--s1); stroke-width: 1.5; stroke-dasharray: 5 4; }
.plot .front { fill: none; stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 2 3; }
.plot .mark { stroke: var(--ink); stroke-width: 1.5; }
.plot .mark1 { stroke-dasharray: 3 3; }
.bar { fill: var(--bar); }
.bar.shipped { fill: var(--s0); }
.bar.reverted { fill: var(--paper); stroke: var(--s1); stroke-width: 1.5; }
.point { stroke-width: 1.8; fill: var(--paper); }
.series0 { stroke: var(--s0); } .series1 { stroke: var(--s1); }
.series2 { stroke: var(--s2); } .series3 { stroke: var(--s3); }
.series0.shipped { fill: var(--s0); } .series1.shipped { fill: var(--s1); }
.series2.shipped { fill: var(--s2); } .series3.shipped { fill: var(--s3); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 4px 0; padding: 0;
  list-style: none; color: var(--muted); font-size: 0.9rem; }
.swatch { width: 14px; height: 14px; vertical-align: -2px; margin-right: 6px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); gap: 8px;
  margin: 0 0 4px; }
.tiles img { display: block; width: 100%; height: auto; border-radius: 3px;
  background: var(--panel); }
.tiles figcaption { font-size: 0.8rem; line-height: 1.3; padding-top: 3px; }
.tile { margin: 14px 0 22px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 8px 0;
  font-size: 0.92rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--muted); }
.digests dd { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace;
  font-size: 0.82rem; }
footer { margin-top: 56px; border-top: 1px solid var(--rule); padding-top: 12px; }
@media (max-width: 640px) {
  table.stacked thead { display: none; }
  table.stacked tr { display: block; padding: 8px; margin-bottom: 10px;
    border: 1px solid var(--rule); border-radius: 8px; }
  table.stacked tr.marked { background: var(--mark); }
  table.stacked th, table.stacked td { display: flex; gap: 12px; justify-content: space-between;
    text-align: right; border: 0; padding: 2px 0; white-space: normal; }
  table.stacked th { text-align: left; }
  table.stacked td::before { content: attr(data-label); color: var(--muted); text-align: left; }
  table.stacked td.none { display: none; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
  .cards { grid-template-columns: 1fr 1fr; }
}
@media print {
  :root { --paper: #ffffff; --panel: #f5f6f8; --ink: #000000; --muted: #444444; --rule: #cccccc;
    --good: #0b6b3a; --mark: #e6f4ec;
    --s0: #0b5cc2; --s1: #b3470b; --s2: #0f766e; --s3: #7c2fd6; --bar: #9aa3b2; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, .tile, tr, .cards li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  article { break-before: page; border: 0; margin: 0; }
  article.only { break-before: auto; }
}
"""
