/** A Worker that serves a part of the zone in its own way, as people's zones have them. */
export default {
  fetch: () => new Response('the shop'),
};
