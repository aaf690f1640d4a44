// The request: as the body that is sent, and as code to copy.

export const METHODS = {
  greedy: "Greedy",
  self_consistency: "Self-consistency",
  best_of_n: "Best of N",
  weighted_vote: "Weighted vote",
  step_beam: "Step beam search",
};

/** Which settings a method takes. */
export const takes = (method) => ({ n: method !== "greedy", width: method === "step_beam" });

const searchOf = (settings) => {
  const search = { method: settings.method };
  if (takes(settings.method).n && settings.n !== null) search.n = settings.n;
  if (takes(settings.method).width && settings.width !== null) search.width = settings.width;
  return search;
};

/** The body of POST /v1/chat/completions. `addresses` are the pictures' URLs; null settings are left to the server. */
export const bodyOf = (settings, addresses) => {
  const pictures = addresses.map((url) => ({ type: "image_url", image_url: { url } }));
  const body = {
    model: settings.model,
    messages: [{ role: "user", content: [...pictures, { type: "text", text: settings.question }] }],
    search: searchOf(settings),
  };
  if (settings.temperature !== null) body.temperature = settings.temperature;
  if (settings.seed !== null) body.seed = settings.seed;
  return body;
};

export const streamed = (body) => ({ ...body, stream: true, stream_options: { include_usage: true } });

const quoted = (name) => `'${name.replaceAll("'", "'\\''")}'`;

/** Text inside a here-document in which the shell still runs $(...): all that it would read is escaped. */
const inHereDocument = (text) => text.replace(/[\\$`]/g, "\\$&");

/** A curl command; the pictures are read from the files named as theirs. */
export const curlOf = (settings, pictures, origin, hasKey) => {
  const slots = pictures.map((_, place) => `@picture-${place}@`);
  let body = inHereDocument(JSON.stringify(bodyOf(settings, slots), null, 2));
  pictures.forEach((picture, place) => {
    const content = `data:${picture.type};base64,$(base64 < ${quoted(picture.name)} | tr -d '\\n')`;
    // The first place is the picture's: pictures stand before the question, which may hold the same letters.
    body = body.replace(slots[place], () => content);
  });
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
  return `curl ${origin}/v1/chat/completions${key} \\\n  -H 'Content-Type: application/json' -d @- <<END\n${body}\nEND`;
};

/** A value as Python writes it; JSON's strings are Python's. */
const python = (value) => {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${python(one)}`).join(", ")}}`;
};

const pictureLine = (picture) =>
  `        {"type": "image_url", "image_url": {"url": data_url(${python(picture.name)}, ${python(picture.type)})}},\n`;

const READER = `def data_url(path, kind):
    return f"data:{kind};base64," + b64encode(open(path, "rb").read()).decode()


`;

/** The same with the openai package. */
export const pythonOf = (settings, pictures, origin, hasKey) => {
  const { search, temperature, seed } = bodyOf(settings, []);
  const plain = Object.entries({ temperature, seed }).filter(([, value]) => value !== undefined);
  const key = hasKey ? `os.environ["API_KEY"]` : `"none"`;
  const imports = `${hasKey ? "import os\n" : ""}${pictures.length ? "from base64 import b64encode\n" : ""}`;
  return `${imports}from openai import OpenAI


${pictures.length ? READER : ""}client = OpenAI(base_url=${python(`${origin}/v1`)}, api_key=${key})
reply = client.chat.completions.create(
    model=${python(settings.model)},
    messages=[{"role": "user", "content": [
${pictures.map(pictureLine).join("")}        {"type": "text", "text": ${python(settings.question)}},
    ]}],
${plain.map(([name, value]) => `    ${name}=${python(value)},\n`).join("")}    extra_body=${python({ search })},
)
print(reply.choices[0].message.content)
print(reply.choices[0].message.chain)`;
};
