// Uploads over the bidirectional stream by k6: open, chunks, finish; each a small file of its own, stored and visible.
//
//   k6 run -e ADDRESS=127.0.0.1:50051 -e TOKEN=dari_... -e KNOWLEDGE_BASE=knowledgeBases/k6 load/k6/ingest.js
//
// Run it in the root of the repository, where proto/ lies. VUS and SECONDS say how many callers ask for how long.
import { check } from "k6";
import encoding from "k6/encoding";
import exec from "k6/execution";
import { Client, Stream } from "k6/net/grpc";
import { Counter, Trend } from "k6/metrics";

const client = new Client();
client.load(["../../proto"], "dari/v1/ingest.proto");

const stored = new Counter("rows_stored");
const visible = new Trend("until_visible", true);
const failed = new Counter("uploads_failed");

export const options = {
  scenarios: {
    uploads: {
      executor: "constant-vus",
      vus: Number(__ENV.VUS || 4),
      duration: `${__ENV.SECONDS || 10}s`,
      gracefulStop: "30s",
    },
  },
  thresholds: { uploads_failed: ["count==0"] },
};

const ROWS = 2000;
const HALF = "faa,name,city\n" + "LGA,La Guardia,New York\n".repeat(ROWS / 2);
const REST = "GMP,김포,서울\n".repeat(ROWS / 2);

function bytesOf(text) {
  // Base64 is how JSON writes bytes; k6's strings are UTF-8 on the way.
  return encoding.b64encode(text);
}

function sizeOf(text) {
  return encodeURIComponent(text).replace(/%../g, "x").length;
}

export default function () {
  if (exec.vu.iterationInInstance === 0) {
    client.connect(__ENV.ADDRESS, { plaintext: true });
  }
  return new Promise((resolve) => {
    const metadata = __ENV.TOKEN ? { authorization: `Bearer ${__ENV.TOKEN}` } : {};
    const stream = new Stream(client, "dari.v1.IngestService/Ingest", { metadata });
    const began = Date.now();
    let receipt = null;
    stream.on("data", (answer) => {
      if (answer.completed) {
        receipt = answer.completed.receipt;
        visible.add(Date.now() - began);
        stored.add(Number(receipt.rowsStored));
      }
    });
    stream.on("error", () => {
      failed.add(1);
      resolve();
    });
    stream.on("end", () => {
      const whole = check(receipt, { "every row is stored": (r) => r && Number(r.rowsStored) === ROWS });
      if (!whole) {
        failed.add(1);
      }
      resolve();
    });
    const id = `k6-${exec.vu.idInTest}-${exec.vu.iterationInInstance}-${began}`;
    stream.write({
      open: { knowledgeBase: __ENV.KNOWLEDGE_BASE, uploadId: id, mode: "UPLOAD_MODE_APPEND" },
    });
    stream.write({ chunk: { offsetBytes: 0, data: bytesOf(HALF) } });
    stream.write({ chunk: { offsetBytes: sizeOf(HALF), data: bytesOf(REST) } });
    stream.write({ finish: { totalSizeBytes: sizeOf(HALF) + sizeOf(REST) } });
    stream.end();
  });
}

export function handleSummary(data) {
  return { stdout: JSON.stringify(data.metrics) };
}
