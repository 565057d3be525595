------------------------------ MODULE Handover ------------------------------
(***************************************************************************)
(* Who may run an instance, and what of it there is, while it is saved,    *)
(* carried to another host and run there: the hand-over of vmferry.        *)
(*                                                                         *)
(* The hosts follow the code (activities/). Nothing else is trusted. The   *)
(* orchestrator is hostile: it calls any step on any host at any time, in  *)
(* any order, as often as it likes, with every statement and package that  *)
(* was ever made. So there is no orchestrator here, and there are no       *)
(* messages: a step may happen whenever its host lets it. What was signed  *)
(* once is known to everybody for ever, and may arrive late or never.      *)
(*                                                                         *)
(* A step of a move is several actions here, one for each change that a    *)
(* crash can separate from the next. An attempt that stops half way, a     *)
(* zombie that begins anew and two attempts in a row are then the same:    *)
(* each action looks at the world before it acts, as each attempt does.    *)
(* Two attempts never interleave on one host, for a step holds the lock of *)
(* its instance; without that guard (`lock`) an attempt may act on what it *)
(* read long ago.                                                          *)
(*                                                                         *)
(* There is one instance. Its guest takes steps, and each of them changes  *)
(* RAM and disk. A state of the guest is a number, and every new state is  *)
(* a new number, so that an old copy can never be taken for a new one.     *)
(* `now` is the newest state that any guest ever was in.                   *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
  Hosts,          \* the pool
  FirstHost,      \* where the instance was spawned
  MaxGeneration,  \* no higher generation is begun
  MaxStopped,     \* no higher generation is stopped by a move
  MaxState,       \* the guest takes steps up to this state; it begins in 1
  MaxFences,      \* so many fences the operator signs
  Dangers,        \* what the world may do: "power loss", "libvirtd dies", "person", "host dies"
  Removed         \* guards that are left out

(***************************************************************************)
(* The guards. Each is one condition, or one order of two changes, in the  *)
(* code. Without any one of them the checker finds a way to a disaster;    *)
(* README.md says for each of them which, and where it stands in the code. *)
(***************************************************************************)
AllGuards == {
  \* at the source
  "lock", "owner-only", "autostart-off", "suspend-first", "old-save-file-dropped", "dropped-beside-qemu",
  "saved-once", "unsealed-kept",
  "receipt-needed", "receipt-fits", "source-ran-on", "qemu-gone", "disk-at-rest", "decided-once",
  "decided-before-run", "only-what-ran-taken-back", "return-looks-at-disk", "package-leads-back",
  "spawned-once",
  \* at the destination
  "digests-checked", "fresh-copy", "owner-not-overwritten",
  "owner-not-discarded", "receipt-after-restore", "release-needed", "release-for-me",
  \* wherever it runs
  "marked-before-run", "marked-beside-qemu", "has-run-obeyed", "stopped-stays-stopped", "records-durable",
  \* fences
  "fence-obeyed", "one-fence-per-generation",
  \* the operator's promises
  "fenced-is-off", "told-before-it-comes-back" }

ASSUME Removed \subseteq AllGuards

Stands(guard) == guard \notin Removed
Guard(guard, condition) == Stands(guard) => condition

VARIABLES
  \* What a host loses with its power
  vm,          \* the QEMU process of the instance
  job,         \* libvirt's save under way
  passed,      \* only without `lock`: chains by which an attempt that still sleeps was told that it may run the guest
  \* The ledger (activities/trust/ledger.ts)
  owned,       \* owned-<g>.json: the chains by which a host owns, or owned, a generation
  statements,  \* decision-<g>.json of all hosts, and the operator's fences: every statement that was ever signed
  seen,        \* seen-<g>.json: the packages that a host accepted, and for which generation
  receipts,    \* receipt-<g>-<move>.json
  told,        \* fence-<g>.json: the fences that a host knows
  \* Other files of a host
  save,        \* save-<g>.json of the newest generation that was stopped there
  saveFile,    \* state of the guest whose RAM is in the complete save file of that move; 0 if there is none
  holds,       \* packages/
  spoilt,      \* those of them, or of their opened members, whose bytes are not what was sealed
  disk,        \* state of the guest that is on the instance's disk; 0 if there is none
  ran,         \* resumed-<g>.json: generations whose guest may have written to its disk there
  defined,     \* hosts whose libvirt has the domain defined
  autostart,   \* hosts whose libvirt starts it when the host boots
  off,         \* hosts without power that stay so until somebody switches them on
  \* What nobody knows
  now,         \* the newest state
  ramLost      \* its RAM went with the power of the host that ran it, its disk is what there is

qemu == << vm, job >>
ledger == << owned, statements, seen, receipts, told >>
files == << save, saveFile, holds, spoilt, disk, ran, defined, autostart >>
truth == << now, ramLost >>
vars == << qemu, passed, ledger, files, off, truth >>

-----------------------------------------------------------------------------
(* Statements, chains and packages *)

(***************************************************************************)
(* A statement names the one before it by digest, so it stands for the     *)
(* whole chain: spawn, then a release, return or fence for each further    *)
(* generation. The length of a chain is the generation that it makes, its  *)
(* last link names the owner. Nobody can forge one.                        *)
(***************************************************************************)
Link(kind, to) == [kind |-> kind, to |-> to]
Spawned == << Link("spawn", FirstHost) >>
NoChain == << >>
Last(c) == c[Len(c)]
Front(c) == SubSeq(c, 1, Len(c) - 1)
Longest(S) == CHOOSE c \in S : \A d \in S : Len(d) <= Len(c)
Max(S) == IF S = {} THEN 0 ELSE CHOOSE n \in S : \A m \in S : m <= n

(***************************************************************************)
(* A package: [chain |-> by which its source owned the instance,           *)
(*             ram, disk |-> states of the guest in its streams].          *)
(* It is accepted for a generation: the next after its chain, or a later   *)
(* one that a fence gives to this host. [after |-> chain, of |-> package]. *)
(***************************************************************************)
Generation(a) == Len(a.after) + 1
Plainly(p) == [after |-> p.chain, of |-> p]

-----------------------------------------------------------------------------
(* What a host finds when it looks *)

Absent == [st |-> "none", ram |-> 0, disk |-> 0, gen |-> 0]
NoJob == [at |-> "none", wake |-> FALSE]
NoSave == [gen |-> 0, saved |-> FALSE, touched |-> FALSE]
Torn == 0  \* a state that no guest was ever in

(* vm[h].gen: the generation that a copy was restored for; 0 if the guest works on the disk that a save record names. *)
(* "freed": it stands, but `resumed-<g>.json` says already that it may run. *)
On(h) == h \notin off
Gone(h) == vm[h].st = "none"
Running(h) == vm[h].st = "running"
Standing(h) == vm[h].st \in {"paused", "freed"}
Own(h) == vm[h].st \in {"running", "freed"} \/ (vm[h].st = "paused" /\ vm[h].gen = 0)
CopyFor(h, gen) == vm[h].st = "paused" /\ vm[h].gen = gen

Decided(c) == \E s \in statements : Len(s) = Len(c) + 1 /\ Last(s).kind \in {"release", "return"} /\ Front(s) = c

\* A fence that h knows and c does not go through
Fenced(h, c) == \E f \in told[h] : Len(f) > Len(c) \/ SubSeq(c, 1, Len(f)) # f

\* `Ledger.owned`: the chain of the generation that h owns and has not decided about, or NoChain
Mine(h) ==
  IF owned[h] = {} THEN NoChain
  ELSE LET c == Longest(owned[h]) IN IF Decided(c) \/ Fenced(h, c) THEN NoChain ELSE c

\* The highest generation that h has heard of, by whatever file
Heard(h) ==
  Max({Len(c) : c \in owned[h]} \cup {Generation(a) : a \in seen[h]} \cup {Len(f) : f \in told[h]}
      \cup {Len(s) : s \in {t \in statements : Last(t).kind = "release" /\ Front(t) \in owned[h]}})

\* `Ledger.#refuseStale`: a is not the newest that h has heard of
Stale(h, a) ==
  LET g == Generation(a)
      heard == Heard(h)
      known == {b \in seen[h] : Generation(b) = g}
      decisions == {s \in statements : Len(s) = g /\ Front(s) \in owned[h]}
  IN
  \/ g < heard
  \/ /\ g = heard
     /\ \/ \E s \in decisions : Last(s).kind = "return"
        \/ IF known # {} THEN \A b \in known : b.of # a.of
           ELSE ~(\E s \in decisions : Last(s).kind = "release" /\ Front(s) = a.of.chain)
                /\ ~(\E f \in told[h] : Len(f) = g)

\* A save record for the generation that c makes: a move has stopped it here
StoppedBy(h, c) == save[h].gen = Len(c)

(* Without `decided-once` an attempt that looked before the decision decides again. *)
MayDecide(h) == IF Stands("decided-once") THEN {Mine(h)} \ {NoChain} ELSE owned[h]

(* The chains by which a step at h may let the guest run. *)
MayRun(h) ==
  LET c == Mine(h) IN
  IF c = NoChain THEN {}
  ELSE {c} \cup (IF Stands("decided-before-run") THEN {} ELSE {Append(c, Link("return", h))})

-----------------------------------------------------------------------------
Init ==
  /\ vm = [h \in Hosts |-> IF h = FirstHost THEN [st |-> "running", ram |-> 1, disk |-> 1, gen |-> 0] ELSE Absent]
  /\ job = [h \in Hosts |-> NoJob]
  /\ passed = [h \in Hosts |-> {}]
  /\ owned = [h \in Hosts |-> IF h = FirstHost THEN {Spawned} ELSE {}]
  /\ statements = {Spawned}
  /\ seen = [h \in Hosts |-> {}]
  /\ receipts = {}
  /\ told = [h \in Hosts |-> {}]
  /\ save = [h \in Hosts |-> NoSave]
  /\ saveFile = [h \in Hosts |-> 0]
  /\ holds = [h \in Hosts |-> {}]
  /\ spoilt = [h \in Hosts |-> {}]
  /\ disk = [h \in Hosts |-> IF h = FirstHost THEN 1 ELSE 0]
  /\ ran = [h \in Hosts |-> IF h = FirstHost THEN {1} ELSE {}]
  /\ defined = {FirstHost}
  /\ autostart = {FirstHost}  \* somebody wished so
  /\ off = {}
  /\ now = 1
  /\ ramLost = FALSE

-----------------------------------------------------------------------------
(* The guest *)

\* It takes a step. Of two that run at once, or of one that goes on from an old state, this makes two histories.
GuestSteps(h) ==
  /\ On(h)
  /\ Running(h) /\ now < MaxState
  /\ now' = now + 1
  /\ vm' = [vm EXCEPT ![h].ram = IF @ = now THEN now + 1 ELSE Torn, ![h].disk = now + 1]
  /\ disk' = [disk EXCEPT ![h] = now + 1]
  \* The overlay that the save record names is newer than its stamp. A restored copy works on another one.
  /\ save' = [save EXCEPT ![h].touched = @ \/ (save[h].saved /\ vm[h].gen = 0)]
  /\ UNCHANGED << job, passed, ledger, saveFile, holds, spoilt, ran, defined, autostart, off, ramLost >>

\* vCPUs run that stood
Resumes(h) ==
  /\ vm' = [vm EXCEPT ![h].st = "running"]
  /\ ramLost' = (ramLost /\ vm[h].ram # now)

\* libvirt boots the domain that it has defined: right only if there is nothing newer than the disk.
Boots(h) ==
  LET right == ramLost /\ disk[h] = now IN
  /\ vm' = [vm EXCEPT ![h] = [st |-> "running", ram |-> IF right THEN now ELSE Torn, disk |-> disk[h], gen |-> 0]]
  /\ ramLost' = (ramLost /\ ~right)

-----------------------------------------------------------------------------
(* Steps 4 to 7 at the source: save, seal (save-instance.ts, rebase-overlay.ts, encrypt-package.ts) *)

(***************************************************************************)
(* The record is written, autostart put off, the guest suspended, and      *)
(* libvirt begins to write the save file. These are one action: between    *)
(* them the guest runs, or stands as it does after them. `wake`: libvirtd, *)
(* should it die, sets the guest running again when it comes back. It does *)
(* so with a guest that ran when the save began.                           *)
(***************************************************************************)
SavingNow(h, c) ==
  /\ IF Stands("owner-only") THEN c # NoChain /\ StoppedBy(h, c) ELSE save[h].gen # 0
  /\ Guard("saved-once", ~save[h].saved)

StartSave(h) ==
  LET c == Mine(h) IN
  /\ On(h)
  /\ Running(h)
  /\ \/ /\ c # NoChain /\ ~StoppedBy(h, c) /\ Len(c) <= MaxStopped
        /\ save' = [save EXCEPT ![h] = [gen |-> Len(c), saved |-> FALSE, touched |-> FALSE]]
     \/ SavingNow(h, c) /\ UNCHANGED save
  /\ autostart' = IF Stands("autostart-off") THEN autostart \ {h} ELSE autostart
  /\ vm' = [vm EXCEPT ![h].st = "paused", ![h].gen = 0]
  /\ job' = [job EXCEPT ![h] = [at |-> "writing", wake |-> ~Stands("suspend-first")]]
  /\ saveFile' = [saveFile EXCEPT ![h] = 0]
  /\ UNCHANGED << passed, ledger, holds, spoilt, disk, ran, defined, off, truth >>

(***************************************************************************)
(* A save that nobody watched to its end begins anew, and libvirt wants    *)
(* the guest to run for an instant before that. A complete file goes       *)
(* first: beside no QEMU it would be taken for the guest's last state. But *)
(* it goes only beside a QEMU that stays. One that libvirt is about to end *)
(* leaves nothing but the file.                                            *)
(***************************************************************************)
DropSaveFile(h) ==
  /\ On(h)
  /\ Own(h) /\ Standing(h)
  /\ saveFile[h] # 0 \/ job[h].at = "writing"
  /\ SavingNow(h, Mine(h))
  /\ Guard("dropped-beside-qemu", job[h].at # "ending")
  /\ saveFile' = [saveFile EXCEPT ![h] = 0]
  /\ job' = IF job[h].at = "writing" THEN [job EXCEPT ![h] = NoJob] ELSE job
  /\ UNCHANGED << vm, passed, ledger, save, holds, spoilt, disk, ran, defined, autostart, off, truth >>

LetRunForAnInstant(h) ==
  /\ On(h)
  /\ Own(h) /\ Standing(h) /\ job[h] = NoJob
  /\ SavingNow(h, Mine(h))
  /\ Guard("old-save-file-dropped", saveFile[h] = 0)
  /\ Resumes(h)
  /\ UNCHANGED << job, passed, ledger, files, off, now >>

\* The file is complete before QEMU is gone.
SaveFileComplete(h) ==
  /\ On(h)
  /\ job[h].at = "writing"
  /\ job' = [job EXCEPT ![h].at = "ending"]
  /\ saveFile' = [saveFile EXCEPT ![h] = vm[h].ram]
  /\ UNCHANGED << vm, passed, ledger, save, holds, spoilt, disk, ran, defined, autostart, off, truth >>

SavedQemuEnds(h) ==
  /\ On(h)
  /\ job[h].at = "ending"
  /\ job' = [job EXCEPT ![h] = NoJob]
  /\ vm' = [vm EXCEPT ![h] = Absent]
  /\ UNCHANGED << passed, ledger, files, off, truth >>

\* By the attempt that watched the file become complete, or by one that finds it complete and QEMU gone.
RecordSaved(h) ==
  LET c == Mine(h) IN
  /\ On(h)
  /\ saveFile[h] # 0
  /\ Gone(h) \/ job[h].at = "ending" \/ vm[h].ram = saveFile[h]
  /\ c # NoChain /\ StoppedBy(h, c)
  /\ Guard("saved-once", ~save[h].saved)
  /\ save' = [save EXCEPT ![h].saved = TRUE, ![h].touched = FALSE]
  /\ UNCHANGED << qemu, passed, ledger, saveFile, holds, spoilt, disk, ran, defined, autostart, off, truth >>

Seal(h) ==
  LET c == Mine(h)
      p == [chain |-> c, ram |-> saveFile[h], disk |-> disk[h]]
  IN
  /\ On(h)
  /\ save[h].saved /\ saveFile[h] # 0
  /\ c # NoChain /\ StoppedBy(h, c)
  /\ Guard("saved-once", \A q \in holds[h] : q.chain # c)
  /\ holds' = [holds EXCEPT ![h] = @ \cup {p}]
  /\ UNCHANGED << qemu, passed, ledger, save, saveFile, spoilt, disk, ran, defined, autostart, off, truth >>

-----------------------------------------------------------------------------
(* Steps 8 to 11 at the destination: accept, fetch, open, restore paused, give the receipt *)

\* `Ledger.accept`
Accept(h, p) ==
  LET a == Plainly(p) IN
  /\ On(h)
  /\ a \notin seen[h]
  /\ ~Stale(h, a)
  /\ \A b \in seen[h] : Generation(b) # Generation(a)
  /\ ~Fenced(h, p.chain)
  /\ seen' = [seen EXCEPT ![h] = @ \cup {a}]
  /\ UNCHANGED << qemu, passed, owned, statements, receipts, told, files, off, truth >>

(***************************************************************************)
(* restore-copy.ts, first of all: QEMU works on a fresh copy of the disk,  *)
(* so that a restore that fails half way spoils nothing that is read       *)
(* again. Digests are checked before anything is opened.                   *)
(***************************************************************************)
Restored(h, p, gen) ==
  LET whole == p \notin spoilt'[h] IN
  [st |-> "paused", ram |-> IF whole /\ p.ram = p.disk THEN p.ram ELSE Torn, disk |-> IF whole THEN p.disk ELSE Torn,
   gen |-> gen]

MaySpoil(h, p, how) ==
  \/ UNCHANGED spoilt
  \/ /\ ~Stands("fresh-copy") \/ (~Stands("digests-checked") /\ how = "fetched")
     /\ spoilt' = [spoilt EXCEPT ![h] = @ \cup {p}]

\* The package is fetched if it is not there yet. A paused copy of another generation is thrown away.
RestorePaused(h, a) ==
  /\ On(h)
  /\ a \in seen[h]
  /\ Guard("owner-not-overwritten", Mine(h) = NoChain)
  /\ h \notin defined \/ ~Stands("owner-not-overwritten")
  /\ Gone(h) \/ Standing(h)
  /\ ~CopyFor(h, Generation(a))
  /\ holds' = [holds EXCEPT ![h] = @ \cup {a.of}]
  /\ MaySpoil(h, a.of, IF a.of \in holds[h] THEN "opened" ELSE "fetched")
  /\ vm' = [vm EXCEPT ![h] = Restored(h, a.of, Generation(a))]
  /\ job' = [job EXCEPT ![h] = NoJob]
  /\ UNCHANGED << passed, ledger, save, saveFile, disk, ran, defined, autostart, off, truth >>

GiveReceipt(h, a) ==
  LET r == [by |-> h, for |-> a] IN
  /\ On(h)
  /\ a \in seen[h] /\ r \notin receipts
  /\ Guard("receipt-after-restore", CopyFor(h, Generation(a)) /\ a.of \in holds[h])
  /\ Mine(h) = NoChain
  /\ ~Stale(h, a)
  /\ receipts' = receipts \cup {r}
  /\ UNCHANGED << qemu, passed, owned, statements, seen, told, files, off, truth >>

\* discard-copy.ts, and the preflight of a later move. The sealed package stays.
Discard(h) ==
  /\ On(h)
  /\ Standing(h)
  /\ Guard("owner-not-discarded", Mine(h) = NoChain)
  /\ vm' = [vm EXCEPT ![h] = Absent]
  /\ job' = [job EXCEPT ![h] = NoJob]
  /\ disk' = [disk EXCEPT ![h] = 0]
  /\ UNCHANGED << passed, ledger, save, saveFile, holds, spoilt, ran, defined, autostart, off, truth >>

-----------------------------------------------------------------------------
(* Step 12 at the source: the release (release-instance.ts, `Ledger.release`) *)

\* A QEMU that libvirt left behind, paused as it was saved, is ended: what it holds is saved.
ReleaseEndsQemu(h) ==
  LET c == Mine(h) IN
  /\ On(h)
  /\ Own(h) /\ job[h] = NoJob
  /\ Guard("source-ran-on", Standing(h))
  /\ c # NoChain /\ StoppedBy(h, c) /\ save[h].saved
  /\ vm' = [vm EXCEPT ![h] = Absent]
  /\ UNCHANGED << job, passed, ledger, files, off, truth >>

Release(h, to, p) ==
  \E c \in MayDecide(h) :
  /\ On(h)
  /\ StoppedBy(h, c) /\ save[h].saved
  /\ ~Running(h)
  /\ Guard("qemu-gone", Gone(h))
  /\ Guard("disk-at-rest", ~save[h].touched)
  /\ p.chain = c
  /\ Guard("receipt-needed", \E r \in receipts : r.by = to /\ Guard("receipt-fits", r.for = Plainly(p)))
  /\ statements' = statements \cup {Append(c, Link("release", to))}
  /\ UNCHANGED << qemu, passed, owned, seen, receipts, told, files, off, truth >>

\* The domain goes after the decision, and its disk when the move is settled.
Undefine(h) ==
  /\ On(h)
  /\ h \in defined
  /\ \E s \in statements : Last(s).kind = "release" /\ Front(s) = Longest(owned[h])
  /\ defined' = defined \ {h}
  /\ disk' = [disk EXCEPT ![h] = 0]
  /\ UNCHANGED << qemu, passed, ledger, save, saveFile, holds, spoilt, ran, autostart, off, truth >>

-----------------------------------------------------------------------------
(* Step 13, and the way back: who may run it, and from what (resume-instance.ts, return-instance.ts) *)

(***************************************************************************)
(* `Ledger.takeBack`. It writes two records; the decision alone counts and *)
(* the other is written again by whoever finds it missing, so this is one  *)
(* action. Only a generation that has run here is taken back: of one that  *)
(* has not, only the step that brought it knows what to run it from.       *)
(***************************************************************************)
TakeBack(h) ==
  \E c \in MayDecide(h) :
  LET s == Append(c, Link("return", h)) IN
  /\ On(h)
  /\ Len(c) < MaxGeneration /\ s \notin statements
  /\ Guard("only-what-ran-taken-back", Len(c) \in ran[h] \/ StoppedBy(h, c) \/ Running(h))
  /\ statements' = statements \cup {s}
  /\ owned' = [owned EXCEPT ![h] = @ \cup {s}]
  /\ UNCHANGED << qemu, passed, seen, receipts, told, files, off, truth >>

Fences == {s \in statements : Last(s).kind = "fence"}

\* Hosts that may run the instance, or be given it, by a history of hosts that leaves out fence f
Rivals(f) ==
  {h \in Hosts : \E s \in statements : /\ Len(s) >= Len(f) - 1 /\ SubSeq(s, 1, Len(f) - 1) = Front(f)
                                       /\ Last(s).to = h
                                       /\ Last(s).kind # "fence" \/ Len(s) < Len(f)} \ {Last(f).to}

\* Each of them is off, or was told.
OutOfTheWay(f) ==
  \A h \in Rivals(f) : h \in off \/ f \in told[h] \/ ~Stands("fenced-is-off") \/ ~Stands("fence-obeyed")

\* `Ledger.takeOver` and `takeOverByFence`
TakeOver(h) ==
  \E a \in seen[h] :
  \E s \in statements \cup (IF Stands("release-needed") THEN {} ELSE {Append(a.after, Link("release", h))}) :
  /\ On(h)
  /\ Front(s) = a.after /\ (\A c \in owned[h] : Len(c) # Len(s))
  /\ \/ Last(s).kind = "release" /\ a.of.chain = a.after
     \/ Last(s).kind = "fence"
  /\ Guard("release-for-me", Last(s).to = h)
  /\ [by |-> h, for |-> a] \in receipts
  /\ Last(s).kind = "fence" => OutOfTheWay(s)
  /\ ~Stale(h, a)
  /\ ~Fenced(h, s)
  /\ owned' = [owned EXCEPT ![h] = @ \cup {s}]
  /\ passed' = IF Stands("lock") THEN passed ELSE [passed EXCEPT ![h] = @ \cup {s}]
  \* By a fence the instance goes back to the package, by the operator's will.
  /\ IF Last(s).kind = "fence" THEN now' = a.of.ram /\ ramLost' = FALSE ELSE UNCHANGED truth
  /\ UNCHANGED << qemu, statements, seen, receipts, told, files, off >>

\* From what h can restore the generation that c makes
Material(h, c) ==
  CASE Last(c).kind = "return" ->
         {p \in holds[h] : p.chain = Front(c) /\ Stands("package-leads-back")} \cup
         (IF saveFile[h] # 0 /\ save[h].gen = Len(c) - 1
          THEN {[chain |-> Front(c), ram |-> saveFile[h], disk |-> disk[h]]} ELSE {})
    [] Last(c).kind \in {"release", "fence"} -> {a.of : a \in {b \in seen[h] : b.after = Front(c) /\ b.of \in holds[h]}}
    [] OTHER -> {}

\* No RAM that fits the disk: the host lost power while the guest ran, or before its RAM was saved, or it ran on since.
NothingSaved(h, c) ==
  /\ Last(c).kind = "return" /\ Gone(h)
  /\ save[h].gen = Len(c) - 1 => save[h].touched \/ (~save[h].saved /\ saveFile[h] = 0)

RestoreMine(h) ==
  \E c \in MayRun(h) : \E p \in Material(h, c) :
  /\ On(h)
  /\ Gone(h) \/ Standing(h)
  /\ ~CopyFor(h, Len(c))
  /\ Guard("has-run-obeyed", Len(c) \notin ran[h])
  /\ ~StoppedBy(h, c)
  /\ Last(c).kind = "return" => ~Own(h) /\ Guard("return-looks-at-disk", ~save[h].touched)
  /\ MaySpoil(h, p, "opened")
  /\ vm' = [vm EXCEPT ![h] = Restored(h, p, Len(c))]
  /\ job' = [job EXCEPT ![h] = NoJob]
  /\ UNCHANGED << passed, ledger, save, saveFile, holds, disk, ran, defined, autostart, off, truth >>

(***************************************************************************)
(* `resumed-<g>.json`, before the vCPUs run. From then on the disk is the  *)
(* guest's, and nothing is restored over it. Also for a guest that was     *)
(* only suspended, and is about to go on: its save file is old from then   *)
(* on.                                                                     *)
(***************************************************************************)
MarkRun(h) ==
  \E c \in MayRun(h) :
  /\ On(h)
  /\ Len(c) \notin ran[h]
  /\ ~StoppedBy(h, c)
  /\ \/ CopyFor(h, Len(c))
     \/ Last(c).kind = "return" /\ Own(h) /\ Guard("marked-beside-qemu", job[h].at # "ending")
     \/ NothingSaved(h, c)
  /\ ran' = [ran EXCEPT ![h] = @ \cup {Len(c)}]
  /\ vm' = IF Standing(h) THEN [vm EXCEPT ![h].st = "freed"] ELSE vm
  /\ job' = IF job[h].at = "ending" THEN job ELSE [job EXCEPT ![h] = NoJob]
  /\ IF CopyFor(h, Len(c))
     THEN defined' = defined \cup {h} /\ disk' = [disk EXCEPT ![h] = vm[h].disk]
     ELSE UNCHANGED << defined, disk >>
  /\ UNCHANGED << passed, ledger, save, saveFile, holds, spoilt, autostart, off, truth >>

(***************************************************************************)
(* The vCPUs run; a guest that is gone although it has run is booted from  *)
(* its disk. A generation that a later move has stopped stays stopped,     *)
(* whoever wakes late.                                                     *)
(***************************************************************************)
Run(h) ==
  \E c \in MayRun(h) :
  /\ On(h)
  /\ job[h] = NoJob
  /\ \/ Len(c) \in ran[h]
     \/ ~Stands("marked-before-run") /\ (CopyFor(h, Len(c)) \/ (Last(c).kind = "return" /\ Own(h) /\ Standing(h)))
  /\ Guard("stopped-stays-stopped", ~StoppedBy(h, c))
  /\ \/ Standing(h) /\ Resumes(h)
     \/ Gone(h) /\ h \in defined /\ Boots(h)
  /\ UNCHANGED << job, passed, ledger, files, off, now >>

\* Without the lock: an attempt at resumeInstance that looked at everything, slept, and goes on where it was.
SleeperRuns(h) ==
  \E c \in passed[h] : \E p \in Material(h, c) :
  /\ On(h)
  /\ ~Running(h)
  /\ vm' = [vm EXCEPT ![h] = [st |-> "running", ram |-> p.ram, disk |-> p.disk, gen |-> Len(c)]]
  /\ UNCHANGED << job, passed, ledger, files, off, truth >>

-----------------------------------------------------------------------------
(* Steps that remove or make anew *)

\* settle-move.ts: the save file goes. The package that was sealed from it stays.
RemoveSaveFile(h) ==
  LET c == Mine(h) IN
  /\ On(h)
  /\ saveFile[h] # 0 /\ job[h] = NoJob
  /\ Guard("unsealed-kept",
       \/ c = NoChain
       \/ \E p \in holds[h] : Len(p.chain) = save[h].gen
       \/ Len(c) > save[h].gen /\ Len(c) \in ran[h])
  /\ saveFile' = [saveFile EXCEPT ![h] = 0]
  /\ UNCHANGED << qemu, passed, ledger, save, holds, spoilt, disk, ran, defined, autostart, off, truth >>

\* spawn-instance.ts by an attempt that wakes late: it makes a new disk and boots from it, unless the instance has run.
SpawnAgain(h) ==
  /\ On(h)
  /\ ~Stands("spawned-once")
  /\ Gone(h) /\ Mine(h) = Spawned
  /\ disk' = [disk EXCEPT ![h] = Torn]
  /\ vm' = [vm EXCEPT ![h] = [st |-> "running", ram |-> Torn, disk |-> Torn, gen |-> 0]]
  /\ UNCHANGED << job, passed, ledger, save, saveFile, holds, spoilt, ran, defined, autostart, off, truth >>

-----------------------------------------------------------------------------
(* The world *)

Packages == UNION {holds[h] : h \in Hosts}

(***************************************************************************)
(* A host loses power and is back at once. What its guest had in RAM alone *)
(* is lost, as for any guest: if it ran, or was let run, or was stopped    *)
(* and not saved yet. From the moment that the save file is complete until *)
(* the guest is let run again nothing may be lost.                         *)
(***************************************************************************)
PowerGoes(h) ==
  /\ passed' = [passed EXCEPT ![h] = {}]
  /\ vm' = [vm EXCEPT ![h] = Absent]
  /\ job' = [job EXCEPT ![h] = NoJob]
  /\ ramLost' = (ramLost \/ (vm[h].ram = now /\ ~Gone(h)
                  /\ (vm[h].st \in {"running", "freed"} \/ (Own(h) /\ ~save[h].saved /\ saveFile[h] # now))))

PowerLoss(h) ==
  /\ On(h)
  /\ "power loss" \in Dangers
  /\ ~Gone(h) \/ ~Stands("records-durable")
  /\ PowerGoes(h)
  /\ UNCHANGED << owned, seen, told, save, saveFile, holds, spoilt, disk, defined, autostart, off, now >>
  \* Records that were not synced before anything was built on them may go with the power.
  /\ \/ UNCHANGED << statements, receipts, ran >>
     \/ /\ ~Stands("records-durable")
        /\ UNCHANGED receipts
        /\ \/ \E s \in statements : Last(s).kind = "release" /\ Last(Front(s)).to = h /\ statements' = statements \ {s}
                                    /\ UNCHANGED ran
           \/ \E g \in ran[h] : ran' = [ran EXCEPT ![h] = @ \ {g}] /\ UNCHANGED statements

LibvirtdDies(h) ==
  /\ On(h)
  /\ "libvirtd dies" \in Dangers
  /\ job[h] # NoJob
  /\ job' = [job EXCEPT ![h] = NoJob]
  /\ vm' = [vm EXCEPT ![h].st = IF job[h].wake THEN "running" ELSE "paused"]
  /\ UNCHANGED << passed, ledger, files, off, truth >>

HostBoots(h) ==
  /\ On(h)
  /\ h \in autostart \cap defined /\ Gone(h)
  /\ Boots(h)
  /\ UNCHANGED << job, passed, ledger, files, off, now >>

\* `virsh resume`: somebody lets the guest go on where it was saved, before the release or after it.
PersonResumes(h) ==
  /\ On(h)
  /\ "person" \in Dangers
  /\ Own(h) /\ Standing(h) /\ job[h] = NoJob /\ save[h].saved
  /\ Resumes(h)
  /\ UNCHANGED << job, passed, ledger, files, off, now >>

(***************************************************************************)
(* `virsh start` where the instance belongs: after a power loss as         *)
(* anybody would; or instead of waiting for a move. Then what the disk     *)
(* holds is the newest state, by that person's will.                       *)
(***************************************************************************)
PersonBoots(h) ==
  /\ On(h)
  /\ Gone(h) /\ h \in defined /\ Mine(h) # NoChain
  /\ IF ramLost /\ disk[h] = now THEN Boots(h) /\ UNCHANGED << save, disk, now >>
     ELSE /\ "person" \in Dangers
          /\ save[h].saved /\ now < MaxState
          /\ now' = now + 1
          /\ ramLost' = FALSE
          /\ vm' = [vm EXCEPT ![h] = [st |-> "running", ram |-> now + 1, disk |-> now + 1, gen |-> 0]]
          /\ disk' = [disk EXCEPT ![h] = now + 1]
          /\ save' = [save EXCEPT ![h].touched = TRUE]
  /\ UNCHANGED << job, passed, ledger, saveFile, holds, spoilt, ran, defined, autostart, off >>

-----------------------------------------------------------------------------
(* Fences: the operator's word that an owner died for good *)

HostDies(h) ==
  /\ On(h)
  /\ "host dies" \in Dangers
  \* Bounds: one host at a time, while there may be need of a fence.
  /\ off = {} /\ Cardinality(Fences) < MaxFences
  /\ Packages # {} /\ \E s \in statements : Last(s).to = h
  /\ PowerGoes(h)
  /\ off' = off \cup {h}
  /\ UNCHANGED << ledger, files, now >>

(***************************************************************************)
(* The operator signs a fence that follows the statement c: its owner will *)
(* not come back with it, and `to` goes on from package p, whatever        *)
(* happened since. He promises that the owner is off. Nothing here or in   *)
(* the code can make that true for him; see README.md.                     *)
(***************************************************************************)
SignFence(to, c, p) ==
  LET f == Append(c, Link("fence", to)) IN
  /\ Cardinality(Fences) < MaxFences
  /\ Len(c) < MaxGeneration
  /\ to # Last(c).to /\ to \notin off
  /\ f \notin statements
  /\ Guard("one-fence-per-generation", \A g \in Fences : Len(g) # Len(f))
  /\ Len(p.chain) <= Len(c) /\ SubSeq(c, 1, Len(p.chain)) = p.chain
  /\ \E h \in Hosts \ off : p \in holds[h]
  /\ Guard("fenced-is-off", Last(c).to \in off)
  /\ \A h \in Rivals(f) : ~Running(h)
  /\ statements' = statements \cup {f}
  /\ UNCHANGED << qemu, passed, owned, seen, receipts, told, files, off, truth >>

(***************************************************************************)
(* obey-fence.ts. A host that is told knows for ever that what it had is   *)
(* over, and gives up what it holds of it.                                 *)
(***************************************************************************)
Obey(h, f) ==
  /\ On(h)
  /\ f \notin told[h]
  /\ Stands("fence-obeyed")
  /\ ~Running(h)
  /\ told' = [told EXCEPT ![h] = @ \cup {f}]
  /\ IF h = Last(f).to \/ (\E c \in owned[h] : Len(c) >= Len(f) /\ SubSeq(c, 1, Len(f)) = f)
     THEN UNCHANGED qemu
     ELSE vm' = [vm EXCEPT ![h] = Absent] /\ job' = [job EXCEPT ![h] = NoJob]
  /\ UNCHANGED << passed, owned, statements, seen, receipts, files, off, truth >>

\* The host that goes on accepts the package for the fence's generation, once every rival is off or was told.
AcceptByFence(h, f, p) ==
  LET a == [after |-> Front(f), of |-> p] IN
  /\ On(h)
  /\ Last(f).to = h /\ a \notin seen[h]
  /\ Len(p.chain) < Len(f) /\ SubSeq(f, 1, Len(p.chain)) = p.chain
  /\ Mine(h) = NoChain /\ ~Stale(h, a)
  /\ seen' = [seen EXCEPT ![h] = @ \cup {a}]
  /\ told' = [told EXCEPT ![h] = @ \cup {f}]
  /\ UNCHANGED << qemu, passed, owned, statements, receipts, files, off, truth >>

\* A host comes back. The operator tells it of every fence before it hears anything else.
ComesBack(h) ==
  /\ h \in off
  /\ off' = off \ {h}
  /\ told' = IF Stands("told-before-it-comes-back") /\ Stands("fence-obeyed")
             THEN [told EXCEPT ![h] = @ \cup {f \in Fences : h \in Rivals(f)}] ELSE told
  /\ UNCHANGED << qemu, passed, owned, statements, seen, receipts, files, truth >>

-----------------------------------------------------------------------------
AtHost(h) ==
  \/ StartSave(h) \/ DropSaveFile(h) \/ LetRunForAnInstant(h) \/ SaveFileComplete(h) \/ SavedQemuEnds(h) \/ RecordSaved(h) \/ Seal(h)
  \/ \E p \in Packages : Accept(h, p)
  \/ \E a \in seen[h] : RestorePaused(h, a) \/ GiveReceipt(h, a)
  \/ Discard(h)
  \/ ReleaseEndsQemu(h) \/ (\E to \in Hosts \ {h}, p \in holds[h] : Release(h, to, p)) \/ Undefine(h)
  \/ TakeBack(h) \/ TakeOver(h) \/ RestoreMine(h) \/ MarkRun(h) \/ Run(h) \/ SleeperRuns(h)
  \/ RemoveSaveFile(h) \/ SpawnAgain(h)
  \/ GuestSteps(h) \/ LibvirtdDies(h) \/ HostBoots(h) \/ PersonResumes(h) \/ PersonBoots(h)
  \/ PowerLoss(h) \/ HostDies(h)
  \/ \E f \in Fences : Obey(h, f) \/ (\E p \in Packages : AcceptByFence(h, f, p))

Next ==
  \/ \E h \in Hosts : AtHost(h) \/ ComesBack(h)
  \/ \E to \in Hosts, c \in statements, p \in Packages : SignFence(to, c, p)

Spec == Init /\ [][Next]_vars

Symmetry == Permutations(Hosts \ {FirstHost})

-----------------------------------------------------------------------------
(* What must hold *)

\* 1. Never do two hosts run the instance.
OneRuns == \A g, h \in Hosts : Running(g) /\ Running(h) => g = h

\* 3. Whoever runs it runs the newest state: nothing was lost, nothing forked, nothing damaged was restored.
NothingLost == \A h \in Hosts : Running(h) => vm[h].ram = now

\* The statements that still count: without those that a fence has ended by which somebody took over.
Begins(c, s) == Len(c) <= Len(s) /\ SubSeq(s, 1, Len(c)) = c
Live == {s \in statements : \A f \in Fences : f \in owned[Last(f).to] => Begins(f, s) \/ Begins(s, f)}
Newest == LET live == Live
              highest == Max({Len(s) : s \in live})
          IN {s \in live : Len(s) = highest}

\* Those to whom the newest statement gives the instance
Heirs == {Last(s).to : s \in Newest}

Runnable(h) ==
  \/ Own(h) /\ vm[h].ram = now
  \/ saveFile[h] = now /\ disk[h] = now
  \/ \E p \in holds[h] \ spoilt[h] : p.ram = now /\ p.disk = now
  \/ ramLost /\ disk[h] = now

\* 2. Somebody runs it, or a host that may run it has the newest state, whole, by itself: no other host is needed.
\* After a fence the package may have to be fetched first, and it may be old: to there the operator goes back.
CopyLives ==
  \/ \E h \in Hosts : Running(h) \/ (h \in Heirs /\ Runnable(h))
  \/ \E s \in Newest : /\ Last(s).kind = "fence"
                       /\ \E h \in Hosts : \E p \in holds[h] \ spoilt[h] : Begins(p.chain, s) /\ p.ram = p.disk

\* 6. A host that runs it holds the chain up to its generation, and no statement goes further.
ChainHeld == \A h \in Hosts : Running(h) => Mine(h) \in Newest

\* Of a generation one thing becomes. (A fence is another's word, not the owner's.)
NeverForks == \A s, t \in statements : Len(s) = Len(t) /\ Last(s).kind # "fence" /\ Last(t).kind # "fence" => s = t
=============================================================================
