// What the server says against a policy, taken apart: each reason with the place that it is about.

const PLACE = /(?:^|; )((?:name|what|when|how|keep|notify|verify_percent)(?:\.[a-z_]+)*(?: and [a-z_.]+)?): /g;

/** `the policy "x": what.source: 1 to 256 bytes; …` → `[{ place, reason }]`; without a place the whole is one reason. */
export function refusals(text) {
  const said = text.replace(/^.*?the policy "(?:[^"\\]|\\.)*": /, "");
  const marks = [...said.matchAll(PLACE)];
  if (marks.length === 0) return [{ place: null, reason: text }];
  const found = marks.map((mark, index) => ({
    place: mark[1],
    reason: said.slice(mark.index + mark[0].length, marks[index + 1]?.index ?? said.length),
  }));
  return marks[0].index > 0 ? [{ place: null, reason: said.slice(0, marks[0].index) }, ...found] : found;
}
