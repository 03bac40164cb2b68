// What an agent is told and reports: LONGSHELF_TASK and LONGSHELF_REPORT are files of JSON.
import {readFileSync, writeFileSync} from "node:fs";

export const task = JSON.parse(readFileSync(process.env.LONGSHELF_TASK, "utf8"));
export const {LONGSHELF_URL: url, LONGSHELF_KEY: key, LONGSHELF_GRPC: grpcAddress} = process.env;
export const model = "demo";
export const turnsMax = 30;
export const messages = [{role: "system", content: task.system}, {role: "user", content: task.prompt}];

const said = {calls: [], text: null, usage: [], thoughts: [], pieces: []};

// calls: {name, arguments} of each, the latter JSON; pieces: in how many each one's arguments came.
export function turn({calls, text, input, output, thoughts, pieces}) {
  if (calls.length) said.calls.push(calls);
  said.text = text;
  said.usage.push({input, output});
  if (thoughts !== undefined) said.thoughts.push(thoughts);
  said.pieces.push(...pieces.values());
}

export function write() {
  writeFileSync(process.env.LONGSHELF_REPORT, JSON.stringify(said));
}

// Counts of pieces by call.
export class Pieces extends Map {
  add(call, piece) {
    this.set(call, (this.get(call) ?? 0) + (piece ? 1 : 0));
  }
}

// The same object, its members in reverse, at every depth.
export function reversedMembers(value) {
  if (Array.isArray(value)) return value.map(reversedMembers);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).reverse().map(([name, each]) => [name, reversedMembers(each)]));
}
