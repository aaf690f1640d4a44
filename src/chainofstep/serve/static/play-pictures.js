// Pictures that are sent along: chosen, dropped or pasted. Previews are drawn on a canvas, for which the page's
// policy needs no exception.

import { byId, element, replaceContent } from "./common.js";

const PREVIEW = 180; // pixels, the longer side
const ENLARGED = 4; // times at most, with square pixels as in the report

const asDataUrl = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`the picture ${file.name} cannot be read: choose it again`));
    reader.readAsDataURL(file);
  });

const preview = async (file) => {
  const image = await createImageBitmap(file).catch(() => null);
  if (!image) throw new Error(`${file.name} is no picture that this browser can show: choose a PNG, JPEG or WebP file`);
  const scale = Math.min(ENLARGED, PREVIEW / Math.max(image.width, image.height));
  const canvas = element("canvas", {
    width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale)),
    role: "img", "aria-label": file.name,
  });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = scale < 1;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
};

export class Pictures {
  /** `onChange()` after every change, `onError(text)` for files that are no pictures. */
  constructor(onChange, onError) {
    Object.assign(this, { onChange, onError, list: [] });
    const drop = byId("drop");
    byId("files").addEventListener("change", (event) => {
      this.add([...event.target.files]);
      event.target.value = ""; // the same file can be chosen again
    });
    for (const kind of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", kind === "dragover");
        if (kind === "drop") this.add([...event.dataTransfer.files]);
      });
    }
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return; // text goes where it is pasted
      event.preventDefault();
      this.add(files);
    });
  }

  async add(files) {
    for (const file of files) {
      try {
        const [canvas, url] = await Promise.all([preview(file), asDataUrl(file)]);
        this.list.push({ name: file.name || "picture.png", type: file.type, url, canvas });
      } catch (error) {
        this.onError(error.message);
      }
    }
    this.show();
  }

  remove(picture) {
    this.list = this.list.filter((one) => one !== picture);
    this.show();
    byId("files").focus();
  }

  show() {
    const items = this.list.map((picture) =>
      element("li", null, picture.canvas,
        element("button", {
          type: "button", class: "remove", title: "Remove", "aria-label": `Remove ${picture.name}`,
          onclick: () => this.remove(picture),
        }, "×"),
        element("small", { dir: "auto" }, picture.name)));
    replaceContent(byId("previews"), items);
    this.onChange();
  }
}
