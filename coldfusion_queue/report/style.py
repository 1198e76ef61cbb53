"""The style sheet of the page: light, dark and on paper, without anything to load."""

from __future__ import annotations

__all__ = ["STYLE"]

#: Colours of series and outcomes are those of Okabe and Ito, which people who do not see red and
#: green apart can tell; those of staleness go from light to dark by their lightness alone.
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --faint: #5f6670; --rule: #d9dde2;
  --card: #f5f6f8; --blue: #0072b2; --orange: #c77700; --green: #007f5f; --red: #c8430a;
  --purple: #b0558c; --sky: #2b8fc9; --a0: #9fd3c7; --a1: #5fb0b7; --a2: #3585a5; --a3: #2b5a8c;
  --a4: #3b2a63; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e8eaed; --faint: #a0a8b1;
  --rule: #343a41; --card: #1d2125; --blue: #5cb3ea; --orange: #f0ab3c; --green: #2dc79b;
  --red: #ff7b4a; --purple: #dd95bd; --sky: #8fd0f5; --a0: #d4f3e8; --a1: #8fd6cf; --a2: #54abc4;
  --a3: #4a7fc0; --a4: #8a6fd0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px 20px 60px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 40px 0 8px; }
h3 { font-size: 14px; margin: 22px 0 2px; overflow-wrap: anywhere; } figure h3 { margin-top: 0; }
p { margin: 6px 0; } .note, .meta { color: var(--faint); font-size: 13px; }
nav { margin: 14px 0; font-size: 14px; } nav a { color: var(--blue); margin-right: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; }
.tile { background: var(--card); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 22px; } .tile span { color: var(--faint); font-size: 13px; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px; }
figure { margin: 0; break-inside: avoid; } svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; } .wide > svg { min-width: 720px; } td svg { width: 160px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; margin: 8px 0; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
td { min-width: 52px; } .number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; } time { white-space: nowrap; } td.long { min-width: 170px; }
code { font: 12px ui-monospace, monospace; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 6px 0 10px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; vertical-align: -1px; background: var(--c); }
.c0 { --c: var(--blue); } .c1 { --c: var(--orange); } .c2 { --c: var(--green); }
.c3 { --c: var(--purple); } .c4 { --c: var(--sky); } .c5 { --c: var(--faint); }
.c6 { --c: var(--red); } .fused { --c: var(--blue); } .refused, .withheld { --c: var(--red); }
.expired { --c: var(--faint); } .restored { --c: var(--orange); } .versions { --c: var(--green); }
.pretrained { --c: var(--faint); } .a0 { --c: var(--a0); } .a1 { --c: var(--a1); }
.a2 { --c: var(--a2); } .a3 { --c: var(--a3); } .a4 { --c: var(--a4); }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } text.label { fill: var(--faint); }
rect, .dot, .part { fill: var(--c); } .grid { stroke: var(--rule); }
.line { stroke: var(--c); stroke-width: 1.8; fill: none; } .band { fill: var(--c); opacity: .16; }
.whisker { stroke: var(--c); opacity: .5; } .gap { stroke-dasharray: 1.5 3.5; stroke-width: 1; }
.edge { stroke: var(--faint); stroke-width: 2; } .left-out { stroke-dasharray: 2 4; }
.node { fill: var(--c); stroke: var(--paper); } text.number { fill: #fff; font-weight: 600; }
.arc { fill: none; stroke: var(--orange); stroke-width: 1.8; } .head { fill: var(--orange); }
text.back { fill: var(--orange); font-weight: 600; }
.attempt { fill: none; stroke: var(--red); stroke-dasharray: 2 2; }
.cross { stroke: var(--red); stroke-width: 2.2; fill: none; }
text.withheld-count { fill: var(--red); font-weight: 600; }
@media (prefers-color-scheme: dark) { text.number { fill: #10151a; } }
@media print { body { max-width: none; padding: 0; font-size: 12px; } nav { display: none; }
  .wide { overflow: visible; } .wide > svg { min-width: 0; } svg, tr { break-inside: avoid; }
  h2, h3, .legend { break-after: avoid; }
  table { font-size: 9.5px; } time { white-space: normal; }
  td, td.long { min-width: 0; } td.long { min-width: 110px; }
  th { white-space: normal; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
