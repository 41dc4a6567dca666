/**
 * The maintenance page: answers every request by itself and never asks the website behind it.
 * The header tells pgleap (and a person with curl) that this Worker answered, and not some other 503.
 */
const page = `<!doctype html>
<html lang="en">
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Back soon</title>
  <style>
    body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto; padding: 0 1.5rem; color: #222 }
  </style>
  <h1>Back soon</h1>
  <p>The database is being upgraded. Nothing is lost; please come back in a little while.</p>
</html>
`;

export default {
  fetch(request, env) {
    return new Response(request.method === 'HEAD' ? null : page, {
      status: 503,
      headers: {
        'content-type': 'text/html; charset=utf-8',
        'cache-control': 'no-store',
        'retry-after': String(env.RETRY_AFTER_SECONDS ?? 120),
        'x-maintenance': env.SCRIPT_NAME,
      },
    });
  },
};
