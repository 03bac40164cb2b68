// The tools of the agents in JavaScript. Each works in the folder where the client runs.
import {spawnSync} from "node:child_process";
import {appendFileSync, readdirSync, readFileSync, writeFileSync} from "node:fs";

const tools = {
  write_file({path, content}) {
    writeFileSync(path, content);
    return `wrote ${content.length} characters`;
  },
  edit_file({path, old_text, new_text, all}) {
    const text = readFileSync(path, "utf8");
    if (!text.includes(old_text)) throw new Error(`${path} has no ${JSON.stringify(old_text)}`);
    writeFileSync(path, all ? text.replaceAll(old_text, () => new_text) : text.replace(old_text, () => new_text));
    return "edited";
  },
  run_command({command, timeout_s = 30}) {
    const {stdout, stderr, status} = spawnSync("bash", ["-c", command], {encoding: "utf8", timeout: 1000 * timeout_s});
    return `${stdout}${stderr}(exit code ${status})`;
  },
  add_numbers: ({numbers}) => String(numbers.reduce((sum, number) => sum + number, 0)),
  record({entry}) {
    appendFileSync("records.jsonl", JSON.stringify(entry) + "\n");
    return "recorded";
  },
  list_files: () => readdirSync(".").sort().join("\n") || "(none)",
};

// {text, failed}
export function run(name, args) {
  try {
    return {text: tools[name](args), failed: false};
  } catch (error) {
    return {text: `error: ${error.message}`, failed: true};
  }
}
