/*
 * The records of one established connection: what a worker writes into the slot, store by store, with its death, or its
 * move to another slot, between any two stores.
 *
 * scripts/model runs spin over it. docs/models.md says what is modelled and what is left out.
 *
 * The numbers are small: the window has WINDOW numbers (64 in RecordState) and its ring twice as many bits (128). What
 * depends on their sizes alone is the same: the ring is twice the window, and a jump goes over more than a window.
 */

#ifndef DEATHS
#define DEATHS 2        /* processes that die, the last one is the third */
#endif
#ifndef HIGHEST
#define HIGHEST 7      /* the highest number of a record of the peer */
#endif
#ifndef RECEIVED
#define RECEIVED 5      /* records of the peer that come */
#endif
#ifndef SENT
#define SENT 3          /* records that are sent */
#endif

#define WINDOW 2
#define RING 4
#define BIT(n) (1 << ((n) % RING))

/* RecordState, in the memory of a slot that the next process goes on with */
byte next = 1;          /* RecordState.nextNumber */
byte newest;            /* RecordState.newestNumber; numbers of the peer begin with 1 */
byte window;            /* RecordState.window, one word here; a store of one of two words is a step below */

/* What only the properties know. */
short sealed;           /* a bit for each number that a record was sealed with */
short delivered;        /* a bit for each number whose message was handed on */
short touched;          /* a bit for each number that a process has begun to mark */

byte deaths = DEATHS;
byte toReceive = RECEIVED;
byte toSend = SENT;

/* RecordState.isMarked, mayBeNew */
#define MAY_BE_NEW(n) ((n) > newest || (newest - (n) < WINDOW && !(window & BIT(n))))

/* A process dies after any store; the next one goes on with what is there (Engine.init(resuming:)). */
inline mayDie() {
    if
    :: deaths > 0 -> deaths--; goto begins
    :: true
    fi
}

/* The bits of the numbers after `from` up to `upTo`; at most WINDOW of them. */
inline bitsBetween(from, upTo) {
    bits = 0;
    n = from + 1;
    do
    :: n <= upTo -> bits = bits | BIT(n); n++
    :: else -> break
    od;
    n = 0
}

/* RecordState.write(clearing:setting:): each of the two words in one store, the lower one first. */
#define LOWER 3
#define UPPER 12
inline write(clearing, setting) {
    atomic { window = (window & UPPER) | (window & LOWER & (15 - (clearing))) | ((setting) & LOWER) };
    mayDie();
    atomic { window = (window & LOWER) | (window & UPPER & (15 - (clearing))) | ((setting) & UPPER) };
    mayDie()
}

active proctype Process() {
    byte number, taken, bits, n, from;

begins:
    atomic { number = 0; taken = 0; bits = 0; n = 0; from = 0 };
end:
    do
    /* ProtectedRecords.open: a record of any number, in any order, and copies of it. Its authenticity does not depend on
       what was received. */
    :: toReceive > 0 ->
        atomic {
            toReceive--;
            select(number : 1 .. HIGHEST)
        };
        if
        :: atomic { MAY_BE_NEW(number) -> skip };
#ifdef DELIVERS_BEFORE_MARKING
            atomic {
                assert((delivered & (1 << number)) == 0);
                delivered = delivered | (1 << number)
            };
            mayDie();
#endif
            /* RecordState.markReceived */
            touched = touched | (1 << number);
            from = newest;
            if
            :: number <= from -> write(0, BIT(number))
            :: number > from ->
                if
                :: number - from > WINDOW ->
                    /* RecordState.jump: past the numbers that are in use, and from there anywhere */
#ifndef JUMPS_AT_ONCE
                    d_step { bitsBetween(from, from + WINDOW) };
                    write(bits, 0);
                    newest = from + WINDOW;
                    mayDie();
#endif
                    write(15, 0);
                    newest = number - 1;
                    mayDie();
                    from = number - 1
                :: number - from <= WINDOW
                fi;
                d_step { bitsBetween(from, number) };
#ifdef NEWEST_BEFORE_WINDOW
                newest = number;
                mayDie();
                write(bits, BIT(number))
#else
                write(bits, BIT(number));
                newest = number;
                mayDie()
#endif
            fi;
#ifndef DELIVERS_BEFORE_MARKING
            /* No record is taken twice. */
            atomic {
                assert((delivered & (1 << number)) == 0);
                delivered = delivered | (1 << number)
            };
            mayDie()
#endif
        :: atomic { !MAY_BE_NEW(number) ->
            /* What is dropped has come before, or is too old, or a process has died with it. */
            assert((touched & (1 << number)) != 0 || newest - number >= WINDOW) }
        fi
    /* ProtectedRecords.send: RecordState.takeNumber, then the record is sealed */
    :: toSend > 0 ->
        toSend--;
        taken = next;
#ifndef SEALS_BEFORE_STORING
        next = taken + 1;
        mayDie();
#endif
        /* No nonce is used twice. */
        atomic {
            assert((sealed & (1 << taken)) == 0);
            sealed = sealed | (1 << taken)
        };
        mayDie();
#ifdef SEALS_BEFORE_STORING
        next = taken + 1;
        mayDie()
#endif
    :: toReceive == 0 && toSend == 0 -> break
    od
}
