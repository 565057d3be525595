// libvirt's C API as promises for Node. The table at the end is the whole of it: each call is made from the signature of
// the C function that it names. `../native.ts` is the same table in TypeScript.
#include <libvirt/libvirt-qemu.h>

#include "call.h"

namespace {

// ---- Functions of C that give their result by out-parameters

template <auto F, class P> Maybe<std::vector<Record>> list(virConnectPtr connection, unsigned flags) {
  P* found = nullptr;
  int count = F(connection, &found, flags);
  if (count < 0) return {};
  std::vector<Record> all;
  for (int i = 0; i < count; i++) all.push_back(describe(Owned<P>(found[i]).get()));
  std::free(found);
  return all;
}
template <auto F> Maybe<double> version(virConnectPtr connection) {
  unsigned long number;
  if (F(connection, &number) < 0) return {};
  return double(number);
}
template <auto F, class P> Maybe<bool> autostart(P object) {
  int on;
  if (F(object, &on) < 0) return {};
  return on != 0;
}

Maybe<Record> nodeInfo(virConnectPtr connection) {
  virNodeInfo info;
  if (virNodeGetInfo(connection, &info) < 0) return {};
  return Record{{"model", std::string(info.model)}, {"memory", double(info.memory)}, {"cpus", double(info.cpus)}};
}
Maybe<Record> nodeMemoryStats(virConnectPtr connection) {
  int count = 0;
  if (virNodeGetMemoryStats(connection, VIR_NODE_MEMORY_STATS_ALL_CELLS, nullptr, &count, 0) < 0) return {};
  std::vector<virNodeMemoryStats> stats(count);
  if (virNodeGetMemoryStats(connection, VIR_NODE_MEMORY_STATS_ALL_CELLS, stats.data(), &count, 0) < 0) return {};
  Record all;
  for (int i = 0; i < count; i++) all[stats[i].field] = double(stats[i].value);
  return all;
}
Maybe<double> nodeFreeMemory(virConnectPtr connection) {
  auto bytes = virNodeGetFreeMemory(connection);
  if (bytes == 0) return {};
  return double(bytes);
}

Maybe<Record> domainState(virDomainPtr domain) {
  int state, reason;
  if (virDomainGetState(domain, &state, &reason, 0) < 0) return {};
  return Record{{"state", double(state)}, {"reason", double(reason)}};
}
Maybe<Record> domainInfo(virDomainPtr domain) {
  virDomainInfo info;
  if (virDomainGetInfo(domain, &info) < 0) return {};
  return Record{{"state", double(info.state)},
                {"maxMemory", double(info.maxMem)},
                {"memory", double(info.memory)},
                {"vcpus", double(info.nrVirtCpu)},
                {"cpuTime", double(info.cpuTime)}};
}
int domainSaveParams(virDomainPtr domain, const Parameters& parameters, unsigned flags) {
  return virDomainSaveParams(domain, parameters.list, parameters.count, flags);
}
int domainRestoreParams(virConnectPtr connection, const Parameters& parameters, unsigned flags) {
  return virDomainRestoreParams(connection, parameters.list, parameters.count, flags);
}
Maybe<Record> domainJobStats(virDomainPtr domain, unsigned flags) {
  Parameters stats;
  int type;
  if (virDomainGetJobStats(domain, &type, &stats.list, &stats.count, flags) < 0) return {};
  auto record = stats.record();
  record["type"] = double(type);
  return record;
}
Maybe<std::string> domainSnapshotCreateXML(virDomainPtr domain, const char* xml, unsigned flags) {
  auto snapshot = virDomainSnapshotCreateXML(domain, xml, flags);
  if (snapshot == nullptr) return {};
  std::string name = virDomainSnapshotGetName(snapshot);
  virDomainSnapshotFree(snapshot);
  return name;
}
Maybe<std::string> domainMonitorCommand(virDomainPtr domain, const char* command, unsigned flags) {
  char* text = nullptr;
  Out<char*> reply;
  if (virDomainQemuMonitorCommand(domain, command, &text, flags) < 0 || !reply.take(text)) return {};
  return reply.value;
}

// ---- The connection as JavaScript sees it

class ConnectionObject : public Napi::ObjectWrap<ConnectionObject> {
 public:
  explicit ConnectionObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use open()");
    connection_ = *info[0].As<Napi::External<SharedConnection>>().Data();
  }
  ~ConnectionObject() {  // dropped without close()
    if (connection_) std::thread([last = std::move(connection_)]() mutable { last.reset(); }).detach();
  }
  template <auto F> Napi::Value call(const Napi::CallbackInfo& info) {
    return Job::start(info.Env(), std::make_unique<Call<F>>(info, connection_));
  }
  Napi::Value close(const Napi::CallbackInfo& info);

 private:
  SharedConnection connection_;
};

class Close : public Job {
 public:
  Close(Napi::Env env, SharedConnection connection) : Job(env), connection_(std::move(connection)) {}

 private:
  bool work() override { return true; }
  void release(bool) override { connection_.reset(); }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }
  SharedConnection connection_;
};
Napi::Value ConnectionObject::close(const Napi::CallbackInfo& info) {
  return Job::start(info.Env(), std::make_unique<Close>(info.Env(), std::move(connection_)));
}

class Open : public Job {  // (uri, keepalive interval, keepalive count, number of the subscriber or 0)
 public:
  explicit Open(const Napi::CallbackInfo& info) : Open(info.Env(), Arguments(info)) {}

 private:
  Open(Napi::Env env, Arguments from)
      : Job(env), uri_(from), interval_(from), count_(from), subscriber_(from), mailbox_(Environment::of(env).mailbox) {}
  bool work() override {
    auto pointer = virConnectOpenAuth(uri_.get(), nullptr, 0);
    if (pointer == nullptr) return false;
    connection_ = std::make_shared<Connection>(pointer);
    // A driver within this process, such as the test driver, has no keepalive.
    bool remote = virConnectSetKeepAlive(pointer, interval_.get(), count_.get()) >= 0;
    if (!remote && virGetLastErrorCode() != VIR_ERR_NO_SUPPORT) return false;
    return subscriber_.get() == 0 || connection_->subscribe(mailbox_, subscriber_.get(), remote);
  }
  void release(bool ok) override {
    if (!ok) connection_.reset();
  }
  Napi::Value result(Napi::Env env) override {
    return Environment::of(env).connection.New({Napi::External<SharedConnection>::New(env, &connection_)});
  }

  In<const char*> uri_;
  In<int> interval_;
  In<unsigned> count_, subscriber_;
  SharedMailbox mailbox_;
  SharedConnection connection_;
};
Napi::Value open(const Napi::CallbackInfo& info) { return Job::start(info.Env(), std::make_unique<Open>(info)); }

void listen(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) throw Napi::TypeError::New(info.Env(), "argument 1 must be a function");
  Environment::of(info.Env()).listener = Napi::Persistent(info[0].As<Napi::Function>());
}

#define CALL(NAME, ...) ConnectionObject::InstanceMethod<&ConnectionObject::call<__VA_ARGS__>>(NAME)

Napi::Object init(Napi::Env env, Napi::Object exports) {
  startEventLoop();
  auto environment = new Environment(env);
  env.SetInstanceData(environment);
  environment->connection = Napi::Persistent(ConnectionObject::DefineClass(env, "Connection", {
      ConnectionObject::InstanceMethod<&ConnectionObject::close>("close"),
      CALL("isAlive", virConnectIsAlive),
      CALL("libVersion", version<virConnectGetLibVersion>),
      CALL("version", version<virConnectGetVersion>),
      CALL("hostname", virConnectGetHostname),
      CALL("uri", virConnectGetURI),
      CALL("capabilities", virConnectGetCapabilities),
      CALL("domainCapabilities", virConnectGetDomainCapabilities),
      CALL("compareCPU", virConnectCompareHypervisorCPU),
      CALL("nodeInfo", nodeInfo),
      CALL("nodeMemoryStats", nodeMemoryStats),
      CALL("nodeFreeMemory", nodeFreeMemory),

      CALL("domains", list<virConnectListAllDomains, virDomainPtr>),
      CALL("domainByUUID", virDomainLookupByUUIDString),
      CALL("domainByName", virDomainLookupByName),
      CALL("domainState", domainState),
      CALL("domainInfo", domainInfo),
      CALL("domainIsActive", virDomainIsActive),
      CALL("domainIsPersistent", virDomainIsPersistent),
      CALL("domainXML", virDomainGetXMLDesc),
      CALL("domainMetadata", virDomainGetMetadata),
      CALL("domainSetMetadata", virDomainSetMetadata),
      CALL("domainAutostart", autostart<virDomainGetAutostart, virDomainPtr>),
      CALL("domainSetAutostart", virDomainSetAutostart),
      CALL("domainDefine", virDomainDefineXMLFlags),
      CALL("domainUndefine", virDomainUndefineFlags),
      CALL("domainCreate", virDomainCreateWithFlags),
      CALL("domainCreateXML", virDomainCreateXML),
      CALL("domainDestroy", virDomainDestroyFlags),
      CALL("domainShutdown", virDomainShutdownFlags),
      CALL("domainSuspend", virDomainSuspend),
      CALL("domainResume", virDomainResume),
      CALL("domainSave", virDomainSaveFlags),
      CALL("domainSaveParams", domainSaveParams),
      CALL("domainRestore", virDomainRestoreFlags),
      CALL("domainRestoreParams", domainRestoreParams),
      CALL("saveImageXML", virDomainSaveImageGetXMLDesc),
      CALL("domainSnapshotCreateXML", domainSnapshotCreateXML),
      CALL("domainJobStats", domainJobStats),
      CALL("domainAbortJob", virDomainAbortJob),
      CALL("domainMigrateSetMaxSpeed", virDomainMigrateSetMaxSpeed),
      CALL("domainUpdateDevice", virDomainUpdateDeviceFlags),
      CALL("domainSetTime", virDomainSetTime),
      CALL("domainAgentCommand", virDomainQemuAgentCommand),
      CALL("domainMonitorCommand", domainMonitorCommand),

      CALL("networks", list<virConnectListAllNetworks, virNetworkPtr>),
      CALL("networkByUUID", virNetworkLookupByUUIDString),
      CALL("networkByName", virNetworkLookupByName),
      CALL("networkIsActive", virNetworkIsActive),
      CALL("networkXML", virNetworkGetXMLDesc),
      CALL("networkAutostart", autostart<virNetworkGetAutostart, virNetworkPtr>),
      CALL("networkSetAutostart", virNetworkSetAutostart),
      CALL("networkDefine", virNetworkDefineXML),
      CALL("networkUndefine", virNetworkUndefine),
      CALL("networkCreate", virNetworkCreate),
      CALL("networkDestroy", virNetworkDestroy),
      CALL("networkUpdate", virNetworkUpdate),
  }));
  exports.Set("open", Napi::Function::New<open>(env));
  exports.Set("listen", Napi::Function::New<listen>(env));
  return exports;
}
NODE_API_MODULE(libvirt, init)

}  // namespace
