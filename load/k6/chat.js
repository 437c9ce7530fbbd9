// Chats over the server stream by k6: from the question to `completed`.
//
//   k6 run -e ADDRESS=127.0.0.1:50051 -e TOKEN=dari_... -e CHAT=chatConfigurations/guide load/k6/chat.js
//
// Run it in the root of the repository, where proto/ lies. VUS and SECONDS say how many callers ask for how long.
import { check } from "k6";
import exec from "k6/execution";
import { Client, Stream } from "k6/net/grpc";
import { Counter, Trend } from "k6/metrics";

const client = new Client();
client.load(["../../proto"], "dari/v1/chat.proto");

const firstToken = new Trend("first_token", true);
const answered = new Trend("until_completed", true);
const failed = new Counter("chats_failed");

export const options = {
  scenarios: {
    chats: {
      executor: "constant-vus",
      vus: Number(__ENV.VUS || 16),
      duration: `${__ENV.SECONDS || 10}s`,
      gracefulStop: "30s",
    },
  },
  thresholds: { chats_failed: ["count==0"] },
};

export default function () {
  if (exec.vu.iterationInInstance === 0) {
    client.connect(__ENV.ADDRESS, { plaintext: true });
  }
  return new Promise((resolve) => {
    const metadata = __ENV.TOKEN ? { authorization: `Bearer ${__ENV.TOKEN}` } : {};
    const stream = new Stream(client, "dari.v1.ChatService/Chat", { metadata });
    const began = Date.now();
    let tokens = 0;
    let completed = false;
    stream.on("data", (event) => {
      if (event.token) {
        tokens += 1;
        if (tokens === 1) {
          firstToken.add(Date.now() - began);
        }
      }
      completed = completed || Boolean(event.completed);
    });
    stream.on("error", () => {
      failed.add(1);
      resolve();
    });
    stream.on("end", () => {
      if (check(completed, { "the answer is complete": (c) => c })) {
        answered.add(Date.now() - began);
      } else {
        failed.add(1);
      }
      resolve();
    });
    stream.write({ chatConfiguration: __ENV.CHAT, question: "Where is La Guardia?" });
    stream.end();
  });
}

export function handleSummary(data) {
  return { stdout: JSON.stringify(data.metrics) };
}
