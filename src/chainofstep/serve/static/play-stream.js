// Talking to the server: errors in one line, and a reply as it streams.

/** An error of the server; `status` is 401 where it wants a key. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const headersOf = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

const messageOf = async (response) => {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answers ${response.status} ${response.statusText}`;
  }
};

const ask = async (address, options) => {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server does not answer: is `cos serve` still running?", 0);
  }
  if (!response.ok) throw new ServerError(await messageOf(response), response.status);
  return response;
};

export const models = async (key) => (await ask("v1/models", { headers: headersOf(key) })).json();

/** The data of a stream's events, as text; an event ends with an empty line, which may come in pieces. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/** The chunks of a reply. Throws where the server says that something went wrong, or stops before the end. */
export async function* chunks(body, key, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headersOf(key) },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message ?? String(chunk.error), 0);
    yield chunk;
  }
  throw new ServerError("the reply broke off before its end: run it again", 0);
}
