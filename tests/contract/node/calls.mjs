// Makes the calls of both programs. `ask` makes a call with one answer, `stream` one with many; `roles` are numbers or names.
const story = { prompt: "讲个故事", sampling: { seed: 7 }, maxTokens: 60 };
const endless = { prompt: "讲个故事", sampling: { temperature: 0, repetitionPenalty: 0.1 }, maxTokens: 2000 };
const wild = { temperature: 2, topP: 1, seed: 1 };

export async function makeCalls(ask, stream, roles) {
  await ask("model", "getModel", {});
  await ask("chat", "chat", story);
  await stream("stream", story);
  await ask("greedy", "chat", { ...story, sampling: { temperature: 0, seed: 7 } });
  await ask("top-k-unset", "chat", { ...story, sampling: wild });
  await ask("top-k-zero", "chat", { ...story, sampling: { ...wild, topK: 0 } });
  await ask("conversation", "chat", {
    prompt: "你叫什么？🙂",
    history: [
      { role: roles.system, content: "你是助手。" },
      { role: roles.user, content: "你好，世界 🌏" },
      { role: roles.assistant, content: "你好！" },
    ],
    sampling: { temperature: 0 },
  });
  await ask("invalid", "chat", {
    history: [{ content: "谁？" }],
    sampling: { temperature: 3, topP: 0 },
    maxTokens: 0,
    stop: [""],
  });
  await ask("other-model", "chat", { ...story, model: "another" });
  await stream("cancel", endless, { leaveAfter: 2 });
  await stream("deadline", endless, { seconds: 1 });
  await ask("no-time", "chat", { ...story, timeLimit: { nanos: 1 } });
  await ask("late", "chat", { prompt: "你好".repeat(900) }, 0.001);
}
