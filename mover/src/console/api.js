// Requests to the API of this server, with the cookie of the session. Every refusal is a Problem with its words.

/** A refusal: RFC 9457, or what the browser says when no answer came. */
export class Problem extends Error {
  constructor(status, kind, detail) {
    super(detail);
    this.status = status;
    this.kind = kind;
  }

  is(name) {
    return this.kind === `urn:mover:problem:${name}`;
  }
}

const listeners = new Set();

/** Calls `work` when the session is found to have ended. */
export const onSignedOut = (work) => listeners.add(work);

async function problemOf(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // A proxy in between answers as it likes.
  }
  return new Problem(response.status, told.type ?? "", told.detail ?? `the server answered ${response.status} ${response.statusText}`);
}

async function request(method, path, { body, headers = {}, signal } = {}) {
  const sent = { accept: "application/json", "x-mover-console": "1", ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method, headers: sent, signal, credentials: "same-origin", cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "no-answer", "the server does not answer: is it running, and is the network there?");
  }
  if (!response.ok) {
    const problem = await problemOf(response);
    if (problem.status === 401 && path !== "/session") listeners.forEach((work) => work());
    throw problem;
  }
  return response.status === 204 ? null : response.json();
}

/** A query string of what is known. */
export function query(values) {
  const known = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return known.length === 0 ? "" : `?${new URLSearchParams(known)}`;
}

/** A key for one intention: sent twice, it is done once. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const segment = encodeURIComponent;

export const api = {
  get: (path, signal) => request("GET", path, { signal }),
  post: (path, body, headers) => request("POST", path, { body, headers }),
  put: (path, body, headers) => request("PUT", path, { body, headers }),
  remove: (path) => request("DELETE", path),
  once: (path, body, key) => request("POST", path, { body, headers: { "idempotency-key": key } }),
  job: (id, rest = "") => `/jobs/${segment(id)}${rest}`,
  policy: (id, rest = "") => `/policies/${segment(id)}${rest}`,
  agent: (id, rest = "") => `/agents/${segment(id)}${rest}`,
};

/** Entries of a list up to `most`, page by page. */
export async function all(path, signal, most = 2000) {
  const items = [];
  let cursor;
  do {
    const page = await api.get(`${path}${query({ cursor, limit: 500 })}`, signal);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor && items.length < most);
  return items;
}
