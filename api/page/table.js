// Lines and files of labelled texts: what a reader pastes or drops.

const TEXT = ["text", "review", "sentence"];
const NAME = /^[\w-]{0,24}$/; // of a column; what else stands in the first line is an example
const LABEL = ["label", "sentiment", "class", "stars"];

/** {text, label} of each record; label null where there is none. Of a table, by the names of its columns. */
export function examples(content) {
  const lines = content.split(/\r?\n/).filter((line) => line.trim());
  const separator = separatorOf(lines);
  const records = split(content.replace(/^\ufeff/, ""), separator).filter((fields) => fields.some((field) => field.trim()));
  if (!records.length) return [];
  const names = records[0].map((name) => name.trim().toLowerCase());
  const text = names.findIndex((name) => TEXT.includes(name));
  const label = names.findIndex((name) => LABEL.includes(name));
  if (text >= 0 && names.every((name) => NAME.test(name))) return records.slice(1).map((fields) => example(fields[text] ?? "", label < 0 ? "" : fields[label]));
  // Without names: the label, then the text, which may hold commas; a line without a separator is a text alone.
  const parts = lines.map((line) => {
    const [first, ...rest] = line.split(separator);
    return rest.length ? { label: unquoted(first).trim(), text: rest.join(separator) } : { label: "", text: line };
  });
  const often = new Map();
  for (const { label } of parts) often.set(label, (often.get(label) ?? 0) + 1);
  return parts.map(({ label, text }, number) => {
    // A comma may be one of a sentence: it ends a label if another line has the same one.
    const known = separator === "\t" || often.get(label) > 1;
    return known ? example(unquoted(text), label) : example(unquoted(lines[number]), "");
  });
}

/** A tab; a semicolon where every line has one; else a comma. */
function separatorOf(lines) {
  if (lines.some((line) => line.includes("\t"))) return "\t";
  return lines.length > 0 && lines.every((line) => line.includes(";")) ? ";" : ",";
}

function example(text, label) {
  return { text: text.trim(), label: (label ?? "").trim() || null };
}

function unquoted(text) {
  const inner = text.trim().match(/^"(.*)"$/s);
  return inner ? inner[1].replaceAll('""', '"') : text;
}

/** Fields of records, in quotes where they hold a separator, a quote or a new line (RFC 4180). */
function split(content, separator) {
  const records = [[""]];
  let quoted = false;
  for (let index = 0; index < content.length; index += 1) {
    const character = content[index];
    const record = records[records.length - 1];
    if (quoted && character === '"' && content[index + 1] === '"') index += 1;
    else if (character === '"' && (quoted || record[record.length - 1] === "")) {
      quoted = !quoted;
      continue;
    } else if (!quoted && character === separator) {
      record.push("");
      continue;
    } else if (!quoted && (character === "\n" || character === "\r")) {
      if (character === "\n") records.push([""]);
      continue;
    }
    record[record.length - 1] += character;
  }
  return records;
}
