/** How a query fails that met a worker between two workflow tasks (src/workflows/interceptors.ts): asked again, it is answered. */
export const askedTooEarly = 'pgleap: asked while the next workflow task is on its way; ask again';
