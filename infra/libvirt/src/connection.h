// A connection to libvirtd, with the events that come over it. Shared by the JavaScript object and by the calls under way:
// the last of them closes it, always in a thread that may block.
#pragma once
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "environment.h"
#include "handles.h"

// libvirt's event loop, one thread for the whole process. Keepalive needs it too: without keepalive a frozen daemon would
// block a call for ever.
inline void startEventLoop() {
  static std::once_flag once;
  std::call_once(once, [] {
    virSetErrorFunc(nullptr, [](void*, virErrorPtr) {});  // or libvirt prints each error on stderr as well
    virEventRegisterDefaultImpl();
    std::thread([] {
      for (;;) virEventRunDefaultImpl();
    }).detach();
  });
}

// JavaScript knows its subscribers by number, so no JavaScript object is held here and libvirt may drop one in any thread.
struct Subscriber {
  SharedMailbox mailbox;
  double number;
};

struct Event : Task {
  double subscriber;
  std::string kind;
  Record about;
  Event(double subscriber, std::string kind, Record about)
      : subscriber(subscriber), kind(std::move(kind)), about(std::move(about)) {}
  void deliver(Napi::Env env) override {
    auto& listener = Environment::of(env).listener;
    if (!listener.IsEmpty()) listener.Call({toJs(env, subscriber), toJs(env, kind), toJs(env, about)});
  }
};

class Connection {
 public:
  explicit Connection(virConnectPtr pointer) : pointer_(pointer) {}
  Connection(const Connection&) = delete;
  ~Connection() {
    // Each callback holds the connection open, so they go first.
    if (lifecycle_ >= 0) virConnectDomainEventDeregisterAny(pointer_, lifecycle_);
    if (watched_) virConnectUnregisterCloseCallback(pointer_, onClose);
    virConnectClose(pointer_);
  }
  virConnectPtr get() const { return pointer_; }

  // A driver within this process cannot be cut off, and would never give the subscriber of `onClose` back.
  bool subscribe(const SharedMailbox& mailbox, double number, bool remote) {
    if (remote) {
      auto subscriber = std::make_unique<Subscriber>(mailbox, number);
      if (virConnectRegisterCloseCallback(pointer_, onClose, subscriber.get(), drop) < 0) return false;
      subscriber.release();
      watched_ = true;
    }
    auto subscriber = std::make_unique<Subscriber>(mailbox, number);
    lifecycle_ = virConnectDomainEventRegisterAny(pointer_, nullptr, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                                  VIR_DOMAIN_EVENT_CALLBACK(onLifecycle), subscriber.get(), drop);
    if (lifecycle_ < 0) return false;
    subscriber.release();
    return true;
  }

 private:
  static void tell(void* subscriber, const char* kind, Record about) {
    auto& to = *static_cast<Subscriber*>(subscriber);
    to.mailbox->post(std::make_unique<Event>(to.number, kind, std::move(about)));
  }
  static void onLifecycle(virConnectPtr, virDomainPtr domain, int event, int detail, void* subscriber) {
    auto about = describe(domain);
    about["event"] = double(event);
    about["detail"] = double(detail);
    tell(subscriber, "lifecycle", std::move(about));
  }
  static void onClose(virConnectPtr, int reason, void* subscriber) { tell(subscriber, "close", {{"reason", double(reason)}}); }
  static void drop(void* subscriber) { delete static_cast<Subscriber*>(subscriber); }

  virConnectPtr pointer_;
  int lifecycle_ = -1;
  bool watched_ = false;
};
using SharedConnection = std::shared_ptr<Connection>;
