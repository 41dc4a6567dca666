/**
 * Names that people give themselves, and what they write beside. They are claims: what is done here keeps two ways to write
 * one name from passing as two people, and keeps a name from looking like another or like pgleap's own words.
 */

/** Longest text that a message may carry in one field, in UTF-16 units. */
export const longestText = 500;

/** Controls, bidirectional overrides, zero-width and other characters that show as nothing, halves of surrogate pairs. */
const unseen = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/u;

/** What pgleap writes where nobody answered. */
const reserved = new Set(['policy', 'time limit', 'nobody', 'unknown', 'your name']);

/** The name as it is kept: NFKC, single spaces, none at the ends; or what is wrong with it, after "it". */
export function readName(text: string): { name: string } | { name: null; wrong: string } {
  if (text.length > longestText) return { name: null, wrong: `is longer than ${longestText} characters` };
  if (unseen.test(text.trim())) return { name: null, wrong: 'holds control or invisible characters' };
  const name = text.normalize('NFKC').replaceAll(/\s+/g, ' ').trim();
  if (!/[\p{L}\p{N}]/u.test(name)) return { name: null, wrong: 'holds no letter or digit' };
  if (unseen.test(name) || name.length > longestText) return { name: null, wrong: 'is no plain text' };
  if (reserved.has(nameKey(name))) return { name: null, wrong: 'is a word that pgleap keeps for itself' };
  return { name };
}

/** Two names with the same key are one person: capitals do not tell people apart. */
export function nameKey(name: string): string {
  return name.normalize('NFKC').replaceAll(/\s+/g, ' ').trim().toLowerCase();
}

/** A note or id of a message as it is shown in terminals and pages: what would move the cursor or turn the line becomes a space. */
export function shownText(text: string): string {
  return text
    .toWellFormed()
    .replaceAll(/[\p{Cc}\p{Zl}\p{Zp}\u200E\u200F\u202A-\u202E\u2066-\u2069]+/gu, ' ')
    .trim();
}
