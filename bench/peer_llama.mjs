// Prefill and decode speed of llama.cpp, through node-llama-cpp, on the columns of engine_bench where they mean the
// same. CSV on standard output. How to get node-llama-cpp and a model: peers.md.
//
//   node bench/peer_llama.mjs --package SCRATCH --model mid.gguf [--context 512,4096] [--threads 1,2] [--steps 32]
//
// Prefill is the segment that ends at a context, from the context before; decode is single steps from there, the median
// of them. Each thread count has a context of its own.
import {createRequire} from "node:module";
import path from "node:path";
import {parseArgs} from "node:util";
import {pathToFileURL} from "node:url";

const {values: options} = parseArgs({
    options: {
        package: {type: "string", default: "."},
        model: {type: "string"},
        context: {type: "string", default: "512,4096"},
        threads: {type: "string", default: "1,2"},
        steps: {type: "string", default: "32"},
        chunk: {type: "string", default: "512"},
        header: {type: "string", default: "yes"}
    }
});
if (options.model === undefined) {
    console.error("peer_llama.mjs: --model FILE.gguf is missing");
    process.exit(2);
}
const numbers = (text) => text.split(",").map(Number);
const contexts = numbers(options.context).sort((a, b) => a - b);
const steps = Number(options.steps);

const require = createRequire(path.resolve(options.package, "package.json"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 0, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(options.model), gpuLayers: 0, useMmap: false});

function token(i) {
    return 2 + (i * 7919 + 17) % 16000;
}

function median(values) {
    return values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

function cpuSeconds() {
    const {user, system} = process.cpuUsage();
    return (user + system) / 1e6;
}

async function timed(work) {
    const cpu = cpuSeconds();
    const begin = performance.now();
    await work();
    return {wall: (performance.now() - begin) / 1e3, cpu: cpuSeconds() - cpu};
}

function report(threads, phase, context, tokens, wall, cpu) {
    const each = [wall, Math.min(...wall), Math.max(...wall)];
    each[0] = median(wall);
    const cpuMedian = median(cpu);
    const figures = [...each.map((s) => s.toFixed(6)), (tokens / each[0]).toFixed(3), cpuMedian.toFixed(6),
        (tokens / cpuMedian).toFixed(3)];
    console.log(["llama.cpp", threads, phase, context, 1, tokens, ...figures].join(","));
}

async function measure(threads) {
    const context = await model.createContext({
        contextSize: contexts.at(-1) + contexts.length * steps + 64,
        batchSize: Number(options.chunk),
        threads: {ideal: threads, min: threads},
        flashAttention: true
    });
    const sequence = context.getSequence({checkpoints: {max: 0, interval: false}});
    // One step that generates: the token given is evaluated and logits are made, as in service.
    const step = (n) => sequence.controlledEvaluate([[token(n), {generateNext: {token: true, options: {temperature: 0}}}]]);
    let n = 0;
    for (const end of contexts) {
        const tokens = Array.from({length: end - n}, (_, i) => token(n + i));
        const prefill = await timed(() => sequence.evaluateWithoutGeneratingNewTokens(tokens));
        n = end;
        report(threads, "prefill", end, tokens.length, [prefill.wall], [prefill.cpu]);
        const decode = [];
        for (let i = 0; i < steps; ++i) decode.push(await timed(() => step(n++)));
        report(threads, "decode", end, 1, decode.map((t) => t.wall), decode.map((t) => t.cpu));
    }
    await context.dispose();
}

if (options.header === "yes") {
    console.log("engine,threads,phase,context,batch,tokens,median_s,min_s,max_s,tokens_per_s,median_cpu_s,tokens_per_cpu_s");
}
for (const threads of numbers(options.threads)) await measure(threads);
await model.dispose();
process.exit(0);
