/** The report's part about going back: the old world as it was and as it is, its volume, what was kept and what was lost. */
import { writesText, type Back, type Compared } from '../old-world.ts';
import type { UpgradeStatus } from '../state.ts';
import { html, type Html } from './html.ts';
import { pill, table } from './parts.ts';

const volumeText = {
  original: 'The database is on its original volume, by that volume’s own PV.',
  'original-static': 'The database is on its original volume, by a new PV: its own was gone.',
  clone: 'The database is on the clone: the original volume was gone at the provider.',
} as const satisfies Record<NonNullable<Back['volume']>, string>;

/** Nothing for an upgrade that did not go back. */
export function wayBack({ back }: UpgradeStatus): Html | null {
  if (back === null) return null;
  const { compared, volume, kept, lostWrites } = back;
  const equal = compared.filter((one) => one.equal === true).length;
  const lost = lostWrites === null ? 'The commit point was not passed: no write was lost.' : writesText(lostWrites);
  return table(
    'Going back',
    ['what', 'as it was', 'as it is', ''],
    compared.map(
      ({ what, expected, found, equal: same }) =>
        html`<tr>
          <td>${what}</td>
          <td>${expected}</td>
          <td>${found}</td>
          <td>${verdict(same)}</td>
        </tr>`,
    ),
    html`<p>${volume === null ? 'The volume was never replaced.' : volumeText[volume]}</p>
      ${kept && html`<p>What was written to the target is kept on volume ${kept.handle} (PV ${kept.pv}, under Retain).</p>`}
      <p>${lostWrites && html`<strong>Lost to the services:</strong> `}${lost}</p>
      <p>${equal} of ${compared.length} things that were compared are as they were.</p>`,
  );
}

function verdict(equal: Compared['equal']): Html {
  if (equal === null) return pill('not seen', 'warn');
  return equal ? pill('equal', 'good') : pill('DIFFERENT', 'bad');
}
