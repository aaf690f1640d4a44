// The playground: a question about pictures, answered step by step while one looks.

import { byId, element, replaceContent, showError, startTheme, toggleTheme } from "./common.js";
import { Pictures } from "./play-pictures.js";
import { METHODS, bodyOf, curlOf, pythonOf, streamed, takes } from "./play-request.js";
import { Result } from "./play-result.js";
import { chunks, models } from "./play-stream.js";

const numberIn = (id) => (byId(id).value === "" ? null : byId(id).valueAsNumber);

class Playground {
  constructor() {
    this.model = null;
    this.running = null;
    this.pictures = new Pictures(() => this.showCode(), showError);
  }

  start() {
    byId("theme").addEventListener("click", toggleTheme);
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    byId("ask").addEventListener("input", () => this.showSettings());
    byId("stop").addEventListener("click", () => this.running?.abort());
    byId("key").addEventListener("change", () => this.askModel());
    byId("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit(byId("run"));
    });
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => this.copy(button));
    }
    return this.askModel();
  }

  /** What the server has. Where it wants a key, the field for it appears. */
  async askModel() {
    try {
      [this.model] = (await models(byId("key").value)).data;
      showError("");
    } catch (error) {
      this.refused(error);
      return;
    }
    const { id: name, prm } = this.model;
    byId("model").textContent = `${name} · ${prm ? `scored by ${prm}` : "no PRM, steps have no scores"}`;
    const offered = this.model.methods ?? ["greedy"];
    for (const id of ["method", "second"]) {
      const options = offered.map((method) => element("option", { value: method }, METHODS[method] ?? method));
      replaceContent(byId(id), options);
    }
    byId("second").selectedIndex = offered.length - 1;
    if (byId("n").value === "") byId("n").value = this.model.n ?? 16;
    this.showSettings();
  }

  /** An error that no result shows. */
  refused(error) {
    showError(error.message);
    if (error.status !== 401) return;
    byId("key-field").hidden = false;
    byId("key").focus();
  }

  chosenMethods() {
    return byId("compare").checked ? [byId("method").value, byId("second").value] : [byId("method").value];
  }

  settings(method) {
    return {
      model: this.model?.id ?? "", method, question: byId("question").value,
      n: numberIn("n"), width: numberIn("width"), temperature: numberIn("temperature"), seed: numberIn("seed"),
    };
  }

  /** Settings that no chosen method takes cannot be changed. */
  showSettings() {
    const taken = this.chosenMethods().map(takes);
    byId("n").disabled = !taken.some((one) => one.n);
    byId("width").disabled = !taken.some((one) => one.width);
    byId("second").disabled = !byId("compare").checked;
    this.showCode();
  }

  showCode() {
    const parts = [this.settings(byId("method").value), this.pictures.list, location.origin, byId("key").value !== ""];
    byId("curl").textContent = curlOf(...parts);
    byId("python").textContent = pythonOf(...parts);
  }

  async copy(button) {
    try {
      await navigator.clipboard.writeText(byId(button.dataset.copy).textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId(button.dataset.copy)); // no clipboard without TLS: then by hand
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  async run() {
    if (this.running) return;
    if (!this.model) await this.askModel();
    if (!this.model) return;
    showError("");
    this.running = new AbortController();
    this.showRunning();
    const results = this.chosenMethods().map((method) => [method, new Result(METHODS[method] ?? method)]);
    replaceContent(byId("results"), results.map(([, result]) => result.view));
    byId("results").classList.toggle("two", results.length > 1);
    if (byId("results").getBoundingClientRect().top > innerHeight / 2) byId("results").scrollIntoView(); // on a phone
    await Promise.all(results.map(([method, result]) => this.runOne(method, result)));
    this.running = null;
    this.showRunning();
  }

  async runOne(method, result) {
    const body = streamed(bodyOf(this.settings(method), this.pictures.list.map((picture) => picture.url)));
    try {
      for await (const chunk of chunks(body, byId("key").value, this.running.signal)) result.add(chunk);
      result.finish("Done");
    } catch (error) {
      if (error.name === "AbortError") return result.finish("Stopped");
      result.finish("Failed", error.message);
      if (error.status === 401) this.refused(error);
    }
  }

  showRunning() {
    byId("stop").hidden = !this.running;
    byId("run").disabled = this.running !== null;
  }
}

startTheme();
new Playground().start();
