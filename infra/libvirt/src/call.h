// A call on its way: a thread of its own, never the pool that Node uses for files and name look-ups, because a save may
// block for minutes and four of them would stop all files and DNS of the process.
#pragma once
#include <system_error>
#include <tuple>

#include "arguments.h"
#include "results.h"

class Job : public Task {
 public:
  // Settles on JavaScript's thread; a failure is the object {message, code, domain, level}.
  static Napi::Value start(Napi::Env env, std::unique_ptr<Job> job) {
    auto& environment = Environment::of(env);
    Napi::Value promise = job->deferred_.Promise();
    try {
      std::thread([mailbox = environment.mailbox, job = std::move(job)]() mutable {
        job->run();
        mailbox->post(std::move(job));
      }).detach();
    } catch (const std::system_error& error) {
      throw Napi::Error::New(env, std::string("no thread for a call to libvirt: ") + error.what());
    }
    environment.began(env);
    return promise;
  }
  ~Job() override { virResetError(&error_); }

  void deliver(Napi::Env env) override {
    Environment::of(env).ended(env);
    if (ok_) return deferred_.Resolve(result(env));
    deferred_.Reject(toJs(env, Record{{"message", std::string(error_.message ? error_.message : "unknown error")},
                                      {"code", double(error_.code)},
                                      {"domain", double(error_.domain)},
                                      {"level", double(error_.level)}}));
  }

 protected:
  explicit Job(Napi::Env env) : deferred_(env) {}
  virtual bool work() = 0;            // in the thread; false if libvirt has set an error
  virtual void release(bool ok) = 0;  // in the thread: gives back what needs libvirt
  virtual Napi::Value result(Napi::Env env) = 0;

 private:
  void run() {
    virResetLastError();
    ok_ = work();
    if (!ok_) virCopyLastError(&error_);  // libvirt keeps it for this thread, until the next call: before release
    release(ok_);
  }

  Napi::Promise::Deferred deferred_;
  virError error_{};
  bool ok_ = false;
};

// Any C function, made into a call by its signature.
template <auto F, class Signature = decltype(F)> class Call;
template <auto F, class R, class... A> class Call<F, R (*)(A...)> : public Job {
 public:
  Call(const Napi::CallbackInfo& info, SharedConnection connection)
      : Job(info.Env()), connection_(std::move(connection)), in_(read(info)) {}

 private:
  using Inputs = std::tuple<In<A>...>;
  static Inputs read(const Napi::CallbackInfo& info) {
    Arguments from(info);
    return Inputs{In<A>(from)...};
  }
  bool work() override {
    auto connection = connection_ ? connection_->get() : nullptr;
    return std::apply([&](auto&... in) { return (in.load(connection) && ...) && out_.take(F(in.get()...)); }, *in_);
  }
  void release(bool) override {
    in_.reset();
    connection_.reset();
  }
  Napi::Value result(Napi::Env env) override { return out_.js(env); }

  SharedConnection connection_;
  std::optional<Inputs> in_;
  Out<R> out_;
};
