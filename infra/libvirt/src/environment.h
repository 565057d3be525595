// One JavaScript environment (the main thread or a worker thread) and the way back to it from any thread.
#pragma once
#include <napi.h>

#include <memory>
#include <mutex>

// Something to do on JavaScript's thread.
struct Task {
  virtual ~Task() = default;
  virtual void deliver(Napi::Env env) = 0;
};

inline void deliver(Napi::Env env, Napi::Function, std::nullptr_t*, Task* task) {
  std::unique_ptr<Task> owned(task);
  if (env == nullptr) return;  // the environment is being torn down
  Napi::HandleScope scope(env);
  task->deliver(env);
}
using Queue = Napi::TypedThreadSafeFunction<std::nullptr_t, Task, deliver>;

// A call may return after its environment has ended (a worker thread terminated in mid-save). The queue is freed memory by
// then, so whoever posts holds the mailbox, and the environment shuts it on its way out.
class Mailbox {
 public:
  explicit Mailbox(Queue queue) : queue_(queue) {}
  void post(std::unique_ptr<Task> task) {
    std::lock_guard lock(mutex_);
    if (open_ && queue_.NonBlockingCall(task.get()) == napi_ok) task.release();
  }
  void shut() {
    std::lock_guard lock(mutex_);
    open_ = false;
    queue_.Release();
  }

 private:
  Queue queue_;
  std::mutex mutex_;
  bool open_ = true;
};
using SharedMailbox = std::shared_ptr<Mailbox>;

// Lives and dies on JavaScript's thread, as the instance data of the addon.
struct Environment {
  Queue queue;
  SharedMailbox mailbox;
  Napi::FunctionReference connection;  // the class, for open()
  Napi::FunctionReference listener;    // told of every event, with the number of its subscriber
  size_t running = 0;

  explicit Environment(Napi::Env env) : queue(Queue::New(env, "libvirt", 0, 1)), mailbox(std::make_shared<Mailbox>(queue)) {
    queue.Unref(env);
    env.AddCleanupHook([mailbox = mailbox] { mailbox->shut(); });
  }
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // Calls under way, and only they, keep Node from ending.
  void began(Napi::Env env) {
    if (running++ == 0) queue.Ref(env);
  }
  void ended(Napi::Env env) {
    if (--running == 0) queue.Unref(env);
  }
};
