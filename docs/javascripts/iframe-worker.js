/* Lets the search work on pages that are opened from a disk, where browsers start no worker: the worker's script runs in
 * a hidden frame instead. The theme's worker looks for the name IFrameWorker and then waits for importScripts.
 */
class FrameInPlaceOfWorker extends EventTarget {
  constructor(address) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    this.inside = this.frame.contentWindow;
    this.inside.document.open();
    this.inside.document.write("<!doctype html><body></body>");
    this.inside.document.close();
    this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    this.inside.importScripts = async (...addresses) => {
      for (const each of addresses) await this.load(each);
    };
    this.ready = this.load(address);
  }

  load(address) {
    return new Promise((loaded, failed) => {
      const script = this.inside.document.createElement("script");
      script.onload = loaded;
      script.onerror = () => failed(new Error(`cannot load ${address}`));
      script.src = address;
      this.inside.document.body.append(script);
    });
  }

  async postMessage(data) {
    await this.ready;
    this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data: structuredClone(data) }));
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") window.Worker = window.IFrameWorker = FrameInPlaceOfWorker;
