------------------------------ MODULE Recovery ------------------------------
(***************************************************************************)
(* No dead end: whatever a hostile orchestrator and the world have done,   *)
(* once they stop, the steps that an honest one takes, and the operator    *)
(* where only he can, bring the instance to run again.                     *)
(*                                                                         *)
(* From every state that Handover reaches, honest steps are tried: while   *)
(* nobody runs the instance one of them is possible, and a few of them are *)
(* enough, whichever are chosen. So it runs in the end.                    *)
(***************************************************************************)
EXTENDS Handover

VARIABLE honest  \* how many honest steps were taken since the last other one; 0 if the last was another

Somebody == \E h \in Hosts : Running(h)

\* An honest orchestrator takes back only what a move has stopped.
TakeBackStopped(h) == Mine(h) # NoChain /\ StoppedBy(h, Mine(h)) /\ TakeBack(h)

HonestStep ==
  \E h \in Hosts :
    \/ TakeOver(h) \/ TakeBackStopped(h) \/ RestoreMine(h) \/ MarkRun(h) \/ Run(h)
    \/ SavedQemuEnds(h)
    \/ PersonBoots(h)

EnoughSteps == 6

InitHonest == Init /\ honest = 0

NextHonest ==
  \/ honest = 0 /\ Next /\ honest' = 0
  \/ ~Somebody /\ honest <= EnoughSteps /\ HonestStep /\ honest' = honest + 1

NoDeadEnd == Somebody \/ ENABLED HonestStep
EndsSoon == honest <= EnoughSteps
=============================================================================
