/*
 * How one client's connection goes from the main process to a worker, from worker to worker, and to the next main
 * process: hello, hand-over, late datagrams, parking, a worker's death, reload, move, upgrade, the main process' death.
 *
 * scripts/model runs spin over it. docs/models.md says what is modelled, what is left out, and what was found. Names of
 * Swift types and functions say what each part stands for: who changes these changes the model.
 *
 * One client, at one address: one flow. Two workers with a table each, of one slot. Faults have budgets, which the
 * command line sets: -DDEATHS=1 allows one worker to die, at any of its steps.
 */

#ifndef DEATHS
#define DEATHS 0        /* workers that die of a defect */
#endif
#ifndef PARKS
#define PARKS 0         /* connections that give their sockets up for silence */
#endif
#ifndef MOVES
#define MOVES 0         /* workers that are told to release their connections */
#endif
#ifndef UPGRADES
#define UPGRADES 0      /* main processes that a successor replaces, or tries to */
#endif
#ifndef MAIN_DEATHS
#define MAIN_DEATHS 0   /* main processes that die; systemd starts the next */
#endif
#ifndef RELOADS
#define RELOADS 0       /* new configurations, which a worker may lose */
#endif
#ifndef RESTARTS
#define RESTARTS 0      /* clients that lose their state and come back on their port */
#endif
#ifndef COPIES
#define COPIES 0        /* datagrams of the client that come twice, or are sent again early */
#endif
#ifndef CLOSES
#define CLOSES 0        /* operators that close the connection */
#endif
#ifndef HELLOS
#define HELLOS 4        /* handshakes that the client may need at most */
#endif
#ifndef MESSAGES
#define MESSAGES 2      /* messages that the client sends, each until it is answered */
#endif

#define NONE 0
#define SOCKETS 3
#define KEYS 6

/* ConnectionNumber: the table in the lowest bit, and how often its slot has been taken. 0: none. */
#define TABLE(id) (id & 1)
#define GENERATION(id) (id >> 1)
#define NUMBER(table, generation) ((generation << 1) + table)

mtype = {
    /* MessageToWorker */
    CONNECTION, MISDELIVERED, RECORDS, RESUME, RESUME_FAILED, GIVE_UP_SOCKET, ADOPT, RELEASE, STOP, CLOSE, CONFIGURE,
    /* MessageFromWorker; MISDELIVERED goes both ways */
    CLOSED, PARKED, WAKE, RELEASED, SETUP_LOST,
    /* datagrams of the client: a ClientHello with a valid cookie, its last flight, a message */
    HELLO, FINISHED, DATA,
    /* datagrams of the server: its flight, its last flight, a message, close_notify */
    FLIGHT, LAST_FLIGHT, ECHO, BYE,
    /* ConnectionSlot.Phase */
    FREE, HANDSHAKING, ESTABLISHED, ENDED,
    /* the client */
    SAYING_HELLO, FINISHING, CONNECTED, DONE
}

/* Channels between the main process and worker n (MessageChannel): what, connection, socket (0: none), generation of the
   configuration or whether the connection had a socket, datagram and its random or key. */
chan toWorker[2] = [5] of { mtype, byte, byte, byte, mtype, byte };
chan toMain[2] = [5] of { mtype, byte, byte, byte, mtype, byte };

/* The kernel: the listener's queue, and connected sockets of the flow, numbered from 1. */
chan listener = [3] of { mtype, byte };
chan queue[SOCKETS + 1] = [2] of { mtype, byte };
bool isOpen[SOCKETS + 1];
chan toClient = [4] of { mtype, byte, byte };

/* The slot of each table (ConnectionSlot), which survives processes. */
mtype phase[2] = FREE;
byte generation[2];
byte key[2];            /* RecordState: 0 where it is wiped */
byte next[2];           /* RecordState.nextNumber */
byte random[2];         /* of the hello that the association began with */
bool hasLeft[2];        /* ConnectionSlot.leaveFlow */

/* Worker n, which serves table n. */
bool isAlive[2] = true;
bool isKilled[2];       /* it dies before its next step */
byte object[2];         /* ServedConnection with a socket: the connection's number */
bool isEstablished[2];  /* of that connection */
byte objectRandom[2];
byte objectKey[2];
byte rehandshake[2];    /* random of the handshake beside the association */
byte objectSocket[2];
byte waking[2];         /* WakeQueue: a connection that waits for a socket */
mtype keptType[2];      /* and what has come for it */
byte keptValue[2];
byte givenUp[2];        /* Parking.givenUp */
bool isLeaving[2];      /* Departure.State.finishingHandshakes */
byte served[2];         /* the generation of its configuration */
bool isBusy[2];         /* in the midst of a step that others see parts of */

/* The main process: SlotTable.Marks, FlowTable, WorkerPool, RecentFlows, SocketRestorer. */
bool isTaken[2];
bool hasSocket[2];
bool isReady[2] = true; /* WorkerPool.worker(ofTable:) gives a worker */
bool isServing[2] = true; /* delivery == .given */
bool awaitsReview[2];
byte connectionOfFlow;
byte recent;            /* RecentFlows.Entry.connection; 0: no entry */
byte recentRandom;      /* 0: the connection has been resumed */
byte wish;              /* SocketRestorer.waking */
byte released;          /* WorkerSupervisor.released */
mtype kept;             /* SocketRestorer.kept */
byte keptOfMain;
byte configuration;
bool isPaused;          /* the listeners are not read, and workers are to end */
byte moving;            /* the connection that WorkerSupervisor.move moves */
bool isMainBusy;
bool hasDied;           /* nobody is there: systemd waits for the end of all processes of the unit */

/* What only the properties know. */
byte used[KEYS];        /* a bit for each number that a record was sealed with, by key */
byte keys;              /* keys that were made */
bool wasDone[HELLOS + 2]; /* a server's handshake with this random has been done, and its connection not closed */
byte silence;           /* times that the client has sent something again while nothing was under way */
mtype client = SAYING_HELLO;
byte attempt = 1;       /* the random of the client's hello */
byte clientKey;
byte answered;
bool hasDiedInMove;     /* the main process has died between the end of the one slot and the other's first word */

byte deaths = DEATHS;
byte parks = PARKS;
byte moves = MOVES;
byte upgrades = UPGRADES;
byte mainDeaths = MAIN_DEATHS;
byte reloads = RELOADS;
byte restarts = RESTARTS;
byte copies = COPIES;
byte closes = CLOSES;

#define NOTHING_UNDER_WAY (empty(listener) && empty(toClient) && empty(toWorker[0]) && empty(toWorker[1]) && \
    empty(toMain[0]) && empty(toMain[1]) && empty(queue[1]) && empty(queue[2]) && empty(queue[3]) && \
    wish == 0 && released == 0 && moving == 0 && isReady[0] && isReady[1] && isServing[0] && isServing[1] && isAlive[0] && \
    isAlive[1] && !isBusy[0] && !isMainBusy && !isBusy[1] && !isPaused)

#define BELONGS(id) (id != 0 && isTaken[TABLE(id)] && generation[TABLE(id)] == GENERATION(id))

#define BOTH_HAVE_ENDED (!isAlive[0] && !isAlive[1] && empty(toMain[0]) && empty(toMain[1]))

/* Handlers that stay while a connection is parked (forward without park) are released with what has woken them. */
#ifndef RELEASES_WAKING
#define RELEASES_WAKING 0
#endif
/* What the checks are checked with: see scripts/model. */
#ifndef CLOSES_GIVEN_UP
#define CLOSES_GIVEN_UP 0
#endif
#ifndef ADOPTS_EARLY
#define ADOPTS_EARLY 0
#endif

/* A datagram that finds no room is lost. */
inline offer(channel, type, value) {
    if
    :: nfull(channel) -> channel!type,value
    :: full(channel)
    fi
}

/* The kernel's socket lookup: a connected socket of the flow, or else the listener. Which one of several it is depends on
   the kernel. */
inline sendToServer(type, value) {
    if
    :: isOpen[1] -> offer(queue[1], type, value)
    :: isOpen[2] -> offer(queue[2], type, value)
    :: isOpen[3] -> offer(queue[3], type, value)
    :: !isOpen[1] && !isOpen[2] && !isOpen[3] -> offer(listener, type, value)
    fi
}

inline sendToClient(type, one, other) {
    if
    :: nfull(toClient) -> toClient!type,one,other
    :: full(toClient)
    fi
}

inline openSocket(socket) {
    if
    :: !isOpen[1] -> socket = 1
    :: isOpen[1] && !isOpen[2] -> socket = 2
    :: isOpen[1] && isOpen[2] && !isOpen[3] -> socket = 3
    :: else -> socket = 0
    fi;
    isOpen[socket] = (socket != 0)
}

/* The end of a channel closes the sockets in it. */
inline drain(channel) {
    do
    :: nempty(channel) -> channel?_,_,socket,_,_,_; closeSocket(socket)
    :: empty(channel) -> break
    od;
    socket = 0
}

inline closeSocket(socket) {
    if
    :: socket != 0 ->
        isOpen[socket] = false;
        do
        :: nempty(queue[socket]) -> queue[socket]?_,_
        :: empty(queue[socket]) -> break
        od
    :: else
    fi
}

/* ---- The client, a DTLS stack with timers: what is not answered is sent again. ---- */

inline sendPending() {
    if
    :: client == SAYING_HELLO -> sendToServer(HELLO, attempt)
    :: client == FINISHING -> sendToServer(FINISHED, attempt)
    :: client == CONNECTED -> sendToServer(DATA, clientKey)
    :: else
    fi
}

inline beginAgain() {
    attempt++;
    /* A client that sends again is served in the end. */
    assert(attempt <= HELLOS);
    client = SAYING_HELLO;
    clientKey = 0;
    silence = 0;
    sendToServer(HELLO, attempt)
}

active proctype Client() {
    mtype type;
    byte one, other;

    atomic { sendToServer(HELLO, attempt) };
    do
    :: client == DONE -> break
    :: client != DONE ->
        if
        :: atomic { toClient?type,one,other ->
            if
            :: type == FLIGHT && client == SAYING_HELLO && one == attempt ->
                client = FINISHING;
                silence = 0;
                sendPending()
            :: type == LAST_FLIGHT && client == FINISHING && one == attempt ->
                client = CONNECTED;
                clientKey = other;
                silence = 0;
                sendPending()
            :: type == ECHO && client == CONNECTED && one == clientKey ->
                answered++;
                silence = 0;
                if
                :: answered >= MESSAGES -> client = DONE
                :: else -> sendPending()
                fi
            :: type == BYE && client == CONNECTED && one == clientKey -> beginAgain()
            :: else
            fi;
            type = NONE; one = 0; other = 0 }
        :: atomic { NOTHING_UNDER_WAY ->
            /* The client has one connected socket at most, so one connection that answers. */
            assert(isOpen[1] + isOpen[2] + isOpen[3] <= 1);
            /* RFC 6347, section 4.2.4: 1, 2, 4 s. RecentFlows.lifetime passes with the second time. */
            if
            :: recent != 0 -> recent = 0; recentRandom = 0
            :: silence == 0 || recent == 0
            fi;
            silence++;
            if
            :: silence <= 2 -> sendPending()
            :: silence > 2 ->
                /* An established connection is never lost: its client is answered without another handshake. */
                assert(client != CONNECTED || hasDiedInMove);
                /* The last flight is sent again as long as the connection is there. */
                assert(!(client == FINISHING && wasDone[attempt]));
                beginAgain()
            fi }
        :: atomic { copies > 0 -> copies--; sendPending() }
        :: atomic { restarts > 0 -> restarts--; beginAgain() }
        fi
    od
}

/* ---- A worker ---- */

/* Connections are parked a second after they were used at the earliest. The main process has moved by then what it was
   told of before. */
#define HAS_MOVED_ALL (released == 0 && empty(toMain[w]))

#define ASSOCIATION_IS_ITS_OWN (generation[w] == GENERATION(object[w]) && phase[w] != FREE)

inline toldMain(what, id, socket, flag, type, value) {
    assert(nfull(toMain[w]));
    toMain[w]!what,id,socket,flag,type,value
}

inline dropObject() {
    object[w] = 0;
    isEstablished[w] = false;
    objectRandom[w] = 0;
    objectKey[w] = 0;
    rehandshake[w] = 0;
    objectSocket[w] = 0
}

/* ConnectionSlot.end */
inline endSlot(table) {
    phase[table] = ENDED;
    if
    :: random[table] <= HELLOS -> wasDone[random[table]] = false
    :: else
    fi;
    key[table] = 0;
    next[table] = 0;
    random[table] = 0
}

/* Connection.finish: what is in the socket is read once more for hellos (rule 3), the slot is wiped, and the end is
   reported before the hello is (Worker.reinject). */
inline finish(reason) {
    if
    :: nempty(queue[objectSocket[w]]) -> queue[objectSocket[w]]?type,value
    :: empty(queue[objectSocket[w]])
    fi;
    closeSocket(objectSocket[w]);
    /* It is another connection's where this one has moved. */
    assert(ASSOCIATION_IS_ITS_OWN);
    endSlot(w);
    toldMain(CLOSED, object[w], 0, 0, NONE, 0);
    if
    :: type == HELLO -> toldMain(MISDELIVERED, 0, 0, 0, HELLO, value)
    :: else
    fi;
    dropObject()
}

/* The worker dies, or ends: the kernel closes what it has, and what its channel still holds. */
inline vanish() {
    closeSocket(objectSocket[w]);
    dropObject();
    drain(toWorker[w]);
    waking[w] = 0; keptType[w] = NONE; keptValue[w] = 0;
    givenUp[w] = 0;
    isLeaving[w] = false;
    isKilled[w] = false;
    isBusy[w] = false;
    isAlive[w] = false;
    type = NONE; value = 0; id = 0; socket = 0; flag = 0; number = 0; reason = 0;
    silence = 0
}

#define MAY_DIE (isKilled[w] || deaths > 0)
inline die() {
    if
    :: isKilled[w]
    :: !isKilled[w] -> deaths--
    fi;
    vanish()
}

/* ProtectedRecords.seal with a number of RecordState.takeNumber, in the steps that another process sees. */
inline take() {
    number = next[w];
#ifndef NUMBER_AFTER_SEALING
    next[w] = number + 1
#endif
}
inline seal(answer) {
    if
    :: key[w] != 0 && key[w] == objectKey[w] ->
        /* No nonce is used twice. */
        assert((used[key[w]] & (1 << number)) == 0);
        used[key[w]] = used[key[w]] | (1 << number);
        sendToClient(answer, key[w], 0)
    :: else
    fi
}

proctype Worker(bit w) {
    mtype type;
    byte id, socket, flag, value, number, reason;
    mtype what;

end:
serve:
    if
    :: atomic { !isAlive[w] -> isAlive[w] }
    :: atomic { isAlive[w] && MAY_DIE -> die() }
    :: atomic { isAlive[w] && !isKilled[w] && nempty(toWorker[w]) ->
        toWorker[w]?what,id,socket,flag,type,value;
        isBusy[w] = true;
        goto message }
    :: atomic { isAlive[w] && !isKilled[w] && object[w] != 0 && nempty(queue[objectSocket[w]]) ->
        queue[objectSocket[w]]?type,value;
        isBusy[w] = true;
        goto datagram }
    /* Parking.parkSilent: the main process is told first, then the socket is read empty and closed. */
    :: atomic { isAlive[w] && !isKilled[w] && parks > 0 && object[w] != 0 && isEstablished[w] && rehandshake[w] == 0 &&
            HAS_MOVED_ALL ->
        parks--;
        silence = 0;
        toldMain(PARKED, object[w], 0, 0, NONE, 0);
        isBusy[w] = true;
        goto park }
    /* Departure.leaveNow */
    :: atomic { isAlive[w] && !isKilled[w] && isLeaving[w] -> goto leave }
    /* Parking.sweepStep: what is idle for idle_timeout ends. Here: a connection whose flow is another one's. */
    :: atomic { isAlive[w] && !isKilled[w] && phase[w] == ESTABLISHED && hasLeft[w] && isReady[w] &&
            object[w] != NUMBER(w, generation[w]) && waking[w] == 0 && empty(toWorker[w]) &&
            nfull(toMain[w]) && givenUp[w] != NUMBER(w, generation[w]) ->
        endSlot(w);
        toldMain(CLOSED, NUMBER(w, generation[w]), 0, 0, NONE, 0) }
    fi;
    goto serve;

message:
    atomic {
        if
        /* Worker.accept */
        :: what == CONNECTION ->
            if
            :: isLeaving[w] -> closeSocket(socket)
            :: !isLeaving[w] && flag != served[w] ->
                /* Worker.reject: the configuration is not the one that the main process believes it to have. */
                closeSocket(socket);
                endSlot(w);
                toldMain(CLOSED, id, 0, 0, NONE, 0)
            :: !isLeaving[w] && flag == served[w] ->
                assert(object[w] == 0);
                /* One hello does not make two connections. */
                assert(!(isAlive[1 - w] && object[1 - w] != 0 && objectRandom[1 - w] == value));
                object[w] = id;
                objectSocket[w] = socket;
                objectRandom[w] = value;
                sendToClient(FLIGHT, value, 0)
            fi
        /* Worker.channel(_:received:): a late datagram (rule 4) */
        :: what == MISDELIVERED ->
            if
            :: object[w] == id && id != 0 -> isBusy[w] = true; goto datagram
            :: else
            fi
        /* Parking.receive */
        :: what == RECORDS ->
            if
            :: object[w] == id -> isBusy[w] = true; goto datagram
            :: object[w] != id && phase[w] == ESTABLISHED && generation[w] == GENERATION(id) &&
                    ((type == DATA && key[w] == value) || (type == FINISHED && random[w] == value)) ->
                if
                :: waking[w] == id
                :: waking[w] != id ->
                    waking[w] = id;
                    toldMain(WAKE, id, 0, 0, NONE, 0)
                fi;
                keptType[w] = type;
                keptValue[w] = value
            :: else
            fi
        /* Parking.resume */
        :: what == RESUME ->
            if
            :: waking[w] == id -> waking[w] = 0
            :: else
            fi;
            if
            :: givenUp[w] == id -> givenUp[w] = 0
            :: else
            fi;
            if
            :: !(phase[w] == ESTABLISHED && generation[w] == GENERATION(id)) || isLeaving[w] ->
                closeSocket(socket); keptType[w] = NONE; keptValue[w] = 0
            :: else ->
                if
                :: object[w] == id -> closeSocket(socket)
                :: object[w] != id ->
                    assert(object[w] == 0);
                    /* Two processes never go on with one connection. */
                    assert(!(isAlive[1 - w] && object[1 - w] != 0 && objectKey[1 - w] == key[w]));
                    object[w] = id;
                    isEstablished[w] = true;
                    objectSocket[w] = socket;
                    objectRandom[w] = random[w];
                    objectKey[w] = key[w]
                fi;
                /* What was kept goes before what has come along. */
                if
                :: keptType[w] != NONE && type == NONE ->
                    type = keptType[w]; value = keptValue[w]
                :: else
                fi;
                keptType[w] = NONE; keptValue[w] = 0;
                if
                :: type != NONE -> isBusy[w] = true; goto datagram
                :: else
                fi
            fi
        :: what == RESUME_FAILED ->
            if
            :: waking[w] == id -> waking[w] = 0; keptType[w] = NONE; keptValue[w] = 0
            :: else
            fi
        /* Parking.giveUpSocket, of a connection without a connection ID: ServedConnection.close(.addressTaken) */
        :: what == GIVE_UP_SOCKET ->
            if
            :: object[w] == id && isEstablished[w] -> isBusy[w] = true; goto close
            :: object[w] == id && !isEstablished[w] -> type = NONE; finish(0)
            :: else
            fi
        /* Departure.release: the connection goes with its socket, or without one */
        :: what == RELEASE ->
            if
            :: object[w] != 0 && isEstablished[w] ->
                givenUp[w] = object[w];
                toldMain(RELEASED, object[w], objectSocket[w], true, NONE, 0);
                waking[w] = 0; keptType[w] = NONE; keptValue[w] = 0;
                dropObject()
            :: object[w] == 0 && phase[w] == ESTABLISHED && isReady[w] && (waking[w] == 0 || RELEASES_WAKING) &&
                    givenUp[w] != NUMBER(w, generation[w]) ->
                givenUp[w] = NUMBER(w, generation[w]);
                waking[w] = 0; keptType[w] = NONE; keptValue[w] = 0;
                toldMain(RELEASED, NUMBER(w, generation[w]), 0, false, NONE, 0)
            :: else
            fi
        /* Worker.close, Parking.close */
        :: what == CLOSE ->
            if
            :: object[w] == id && isEstablished[w] -> isBusy[w] = true; goto close
            :: object[w] == id && !isEstablished[w] -> type = NONE; finish(0)
            :: object[w] != id && phase[w] == ESTABLISHED && generation[w] == GENERATION(id) &&
                    (givenUp[w] != id || CLOSES_GIVEN_UP) ->
                objectKey[w] = key[w];
                isBusy[w] = true;
                goto closeParked
            :: else
            fi
        :: what == ADOPT ->
            if
            :: givenUp[w] == id -> givenUp[w] = 0
            :: else
            fi
        /* Departure.leave */
        :: what == STOP -> isLeaving[w] = true
        :: what == CONFIGURE ->
            if
            :: served[w] = flag
            :: flag > served[w] && reloads == 0 && isServing[w] ->
                toldMain(SETUP_LOST, 0, 0, flag, NONE, 0)
            fi
        fi;
        id = 0; socket = 0; flag = 0; type = NONE; value = 0; what = NONE;
        isBusy[w] = false
    };
    goto serve;

    /* Connection.receive, Association.receive */
datagram:
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        what = NONE; id = 0; socket = 0; flag = 0;
        if
        /* Association.receiveInsteadOfHandshake, receiveBesideAssociation */
        :: type == HELLO ->
            if
            :: value == objectRandom[w] && !isEstablished[w] -> sendToClient(FLIGHT, value, 0)
            :: value == objectRandom[w] && isEstablished[w]
            :: value != objectRandom[w] && !isEstablished[w] -> finish(0)
            :: value != objectRandom[w] && isEstablished[w] ->
                rehandshake[w] = value;
                sendToClient(FLIGHT, value, 0)
            fi
        :: type == FINISHED ->
            if
            :: value == objectRandom[w] && !isEstablished[w] -> goto establish
            :: value == rehandshake[w] && isEstablished[w] -> goto establish
            /* ProtectedRecords.receiveHandshakeMessage: the last flight once more */
            :: value == objectRandom[w] && value != rehandshake[w] && isEstablished[w] ->
                sendToClient(LAST_FLIGHT, value, objectKey[w])
            :: else
            fi
        :: type == DATA ->
            if
            :: isEstablished[w] && objectKey[w] == value -> goto answer
            :: else
            fi
        :: else
        fi;
        type = NONE; value = 0; isBusy[w] = false
    };
    goto serve;

    /* Association.settle: one word makes what was prepared the connection's (ConnectionSlot.establish). Then the outbox
       leaves. */
establish:
    atomic {
        assert(ASSOCIATION_IS_ITS_OWN);
        keys++;
        assert(keys < KEYS);
        if
        :: rehandshake[w] != 0 && random[w] <= HELLOS -> wasDone[random[w]] = false
        :: else
        fi;
        phase[w] = ESTABLISHED;
        key[w] = keys;
        next[w] = 0;
        random[w] = value;
        wasDone[value] = true;
        isEstablished[w] = true;
        objectKey[w] = keys;
        objectRandom[w] = value;
        rehandshake[w] = 0
    };
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        sendToClient(LAST_FLIGHT, objectRandom[w], objectKey[w]);
        type = NONE; value = 0; isBusy[w] = false
    };
    goto serve;

    /* A handler that sends an answer. A worker writes to its own slots alone. */
answer:
    atomic { assert(ASSOCIATION_IS_ITS_OWN); take() };
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        seal(ECHO);
#ifdef NUMBER_AFTER_SEALING
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        next[w] = number + 1;
#endif
        type = NONE; value = 0; number = 0; isBusy[w] = false
    };
    goto serve;

    /* Connection.close */
close:
    atomic { assert(ASSOCIATION_IS_ITS_OWN); id = 0; socket = 0; what = NONE; take() };
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        seal(BYE);
        type = NONE;
        finish(0);
        type = NONE; value = 0; number = 0; isBusy[w] = false
    };
    goto serve;

    /* Parking.end: Datapath.writeCloseNotify, Worker.countClosed */
closeParked:
    atomic { socket = 0; what = NONE; take() };
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        seal(BYE);
        if
        :: generation[w] == GENERATION(id) && phase[w] != ENDED && phase[w] != FREE -> endSlot(w)
        :: else
        fi;
        toldMain(CLOSED, id, 0, 0, NONE, 0);
        if
        :: object[w] == 0 -> objectKey[w] = 0
        :: else
        fi;
        id = 0; number = 0; isBusy[w] = false
    };
    goto serve;

    /* ServedConnection.park */
park:
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        if
        :: nempty(queue[objectSocket[w]]) ->
            /* What is read may be anything. It is answered, and then the socket is given up all the same. */
            queue[objectSocket[w]]?type,value;
            if
            :: type == DATA && value == objectKey[w] -> take(); goto parkAnswer
            :: type == HELLO && value != objectRandom[w] -> sendToClient(FLIGHT, value, 0)
            :: else
            fi
        :: empty(queue[objectSocket[w]]) ->
            closeSocket(objectSocket[w]);
            dropObject();
            type = NONE; value = 0; isBusy[w] = false;
            goto serve
        fi;
        type = NONE; value = 0
    };
    goto park;
parkAnswer:
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        seal(ECHO);
        type = NONE; value = 0; number = 0
    };
    goto park;

    /* Each connection's socket is read, then all that can move is left in its slot. */
leave:
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        if
        :: object[w] != 0 && isEstablished[w] && nempty(queue[objectSocket[w]]) ->
            queue[objectSocket[w]]?type,value;
            if
            :: type == DATA && value == objectKey[w] -> take(); goto leaveAnswer
            :: else
            fi;
            type = NONE; value = 0
        :: object[w] != 0 && !isEstablished[w] -> type = NONE; finish(0); type = NONE; value = 0
        :: object[w] == 0 || (isEstablished[w] && empty(queue[objectSocket[w]])) -> vanish(); goto serve
        fi
    };
    goto leave;
leaveAnswer:
    atomic {
        if
        :: MAY_DIE -> die(); goto serve
        :: !isKilled[w]
        fi;
        seal(ECHO);
        type = NONE; value = 0; number = 0
    };
    goto leave
}

/* ---- The main process ---- */

inline tell(to, whatToSay, id, socket, flag, datagram, content) {
    assert(nfull(toWorker[to]));
    toWorker[to]!whatToSay,id,socket,flag,datagram,content
}

/* ConnectionTable.end: SlotTable.free, FlowTable.remove */
inline free(table) {
    if
    :: connectionOfFlow == NUMBER(table, generation[table]) -> connectionOfFlow = 0
    :: else
    fi;
    endSlot(table);
    phase[table] = FREE;
    hasLeft[table] = false;
    isTaken[table] = false;
    hasSocket[table] = false
}

/* ConnectionTable.review: an established connection of a dead worker has no socket from now on; any other has ended. */
inline review(table) {
    if
    :: awaitsReview[table] && isTaken[table] ->
        if
#ifdef REVIEW_KEEPS_SOCKETS
        :: phase[table] == ESTABLISHED
#else
        :: phase[table] == ESTABLISHED -> hasSocket[table] = false
#endif
        :: phase[table] != ESTABLISHED -> free(table)
        fi
    :: else
    fi
}

/* SocketRestorer.makeSocket, WorkerSupervisor.resume, DatagramListener.expectLateDatagrams */
inline makeSocket(datagram, content) {
    openSocket(socket);
    if
    :: socket != 0 ->
        tell(TABLE(connectionOfFlow), RESUME, connectionOfFlow, socket, 0, datagram, content);
        hasSocket[TABLE(connectionOfFlow)] = true;
        recent = connectionOfFlow;
        recentRandom = 0
    :: else
    fi;
    socket = 0
}

/* DatagramListener.admit, WorkerSupervisor.handOver, ConnectionTable.begin */
inline admit() {
    if
    :: isReady[0] && isServing[0] && !isTaken[0] -> table = 0
    :: isReady[1] && isServing[1] && !isTaken[1] -> table = 1
    :: else -> table = 2
    fi;
    openSocket(socket);
    if
    :: table < 2 && socket != 0 ->
        generation[table]++;
        phase[table] = HANDSHAKING;
        isTaken[table] = true;
        hasSocket[table] = true;
        hasLeft[table] = false;
        /* ConnectionTable.take: a flow has one connection */
        other = connectionOfFlow;
        connectionOfFlow = NUMBER(table, generation[table]);
        if
        :: other != 0 ->
            hasLeft[TABLE(other)] = true;
#ifndef KEEPS_OTHER_SOCKET
            if
            :: hasSocket[TABLE(other)] && isReady[TABLE(other)] ->
                tell(TABLE(other), GIVE_UP_SOCKET, other, 0, 0, NONE, 0)
            :: else
            fi
#endif
        :: else
        fi;
        tell(table, CONNECTION, connectionOfFlow, socket, configuration, HELLO, value);
        recent = connectionOfFlow;
        recentRandom = value
    :: else -> closeSocket(socket)
    fi;
    socket = 0; other = 0; table = 0
}

/* DatagramListener.handle with Endpoint.receive. SocketRestorer.connection(of:wasKept:) reads what workers have said
   before a datagram counts as one of no connection; here that may have happened or not. */
inline handle() {
    if
#ifndef COPY_BEGINS
    /* .drop(.repeated) */
    :: type == HELLO && recent != 0 && recentRandom == value -> type = NONE
#endif
    /* .forward */
    :: recent != 0 && (type != HELLO || recentRandom == 0) ->
        if
        :: BELONGS(recent) && hasSocket[TABLE(recent)] && isReady[TABLE(recent)] ->
            tell(TABLE(recent), MISDELIVERED, recent, 0, 0, type, value);
            type = NONE
        :: else -> recent = 0; recentRandom = 0
        fi
    :: else
    fi;
    if
    :: type != NONE ->
        if
        :: connectionOfFlow != 0 -> table = TABLE(connectionOfFlow); review(table); table = 0
        :: else
        fi;
        if
        :: connectionOfFlow != 0 && !hasSocket[TABLE(connectionOfFlow)] ->
            if
            /* SocketRestorer.keep: no worker serves the connection */
            :: !isReady[TABLE(connectionOfFlow)] -> kept = type; keptOfMain = value
            :: isReady[TABLE(connectionOfFlow)] && type == HELLO -> makeSocket(type, value)
            :: isReady[TABLE(connectionOfFlow)] && type != HELLO ->
                tell(TABLE(connectionOfFlow), RECORDS, connectionOfFlow, 0, 0, type, value)
            fi
        :: else ->
            if
            :: type == HELLO -> admit()
            :: else
            fi
        fi
    :: else
    fi;
    type = NONE; value = 0
}

/* What was kept goes to the worker that serves the connection now (SocketRestorer.adopted). */
inline handOutKept() {
    if
    :: kept != NONE ->
        type = kept; value = keptOfMain;
        kept = NONE; keptOfMain = 0;
        handle()
    :: else
    fi
}

/* SlotTable.init(number:adopting:), ConnectionTable.adopt */
inline adopt(t) {
    isTaken[t] = false;
    hasSocket[t] = false;
    if
    :: phase[t] == ESTABLISHED ->
        isTaken[t] = true;
        if
        :: !hasLeft[t] ->
            if
            :: connectionOfFlow == 0 -> connectionOfFlow = NUMBER(t, generation[t])
            :: else ->
                /* The process before has died while it moved one of them: never with the same keys. */
                assert(key[TABLE(connectionOfFlow)] != key[t]);
                hasLeft[t] = true
            fi
        :: else
        fi
    :: phase[t] != ESTABLISHED -> free(t)
    fi
}

/* WorkerSupervisor.move, SlotTable.take(_:from:), ConnectionSlot.takeOver(from:): the worker of `id` has let go of it. */
#define DESTINATION(id) (1 - TABLE(id))
#define CAN_MOVE(id) (isReady[1 - TABLE(id)] && isServing[1 - TABLE(id)] && !isTaken[1 - TABLE(id)] && \
    phase[TABLE(id)] == ESTABLISHED)

active proctype Main() {
    mtype what, type;
    byte id, socket, flag, value, table, other, movingSocket;

    atomic { run Worker(0); run Worker(1) };
end:
serve:
    if
    :: atomic { !isPaused && nempty(listener) -> listener?type,value; handle() }

    /* What workers say. A main process that has died has lost it. */
    :: atomic { nempty(toMain[0]) -> toMain[0]?what,id,socket,flag,type,value; table = 0; isMainBusy = true; goto message }
    :: atomic { nempty(toMain[1]) -> toMain[1]?what,id,socket,flag,type,value; table = 1; isMainBusy = true; goto message }

    /* SocketRestorer.fulfil */
    :: atomic { wish != 0 && !hasDied ->
        id = wish;
        wish = 0;
        if
        :: BELONGS(id) && !hasSocket[TABLE(id)] ->
            if
            :: isReady[TABLE(id)] && connectionOfFlow == id -> makeSocket(NONE, 0)
            :: isReady[TABLE(id)] && connectionOfFlow != id -> tell(TABLE(id), RESUME_FAILED, id, 0, 0, NONE, 0)
            :: !isReady[TABLE(id)]
            fi
        :: else
        fi;
        id = 0 }

    /* WorkerSupervisor.moveReleased, in a later turn: what has got a socket meanwhile goes on where it is. */
    :: atomic { released != 0 && !hasDied ->
        moving = released;
        released = 0;
        if
        :: BELONGS(moving) && !hasSocket[TABLE(moving)] -> goto move
        :: else -> moving = 0
        fi }

    /* Acceptor.reapChildren, WorkerPool.ended: the channel is read to its end first. */
    :: atomic { !isPaused && !isAlive[0] && isReady[0] && empty(toMain[0]) ->
        isReady[0] = false; awaitsReview[0] = true; drain(toWorker[0]);
        if :: released != 0 && TABLE(released) == 0 -> released = 0 :: else fi }
    :: atomic { !isPaused && !isAlive[1] && isReady[1] && empty(toMain[1]) ->
        isReady[1] = false; awaitsReview[1] = true; drain(toWorker[1]);
        if :: released != 0 && TABLE(released) == 1 -> released = 0 :: else fi }
    /* WorkerPool.review, goOn, begin: once all slots have been looked at, the next worker takes over. */
    :: atomic { !isPaused && awaitsReview[0] -> review(0); awaitsReview[0] = false; isAlive[0] = true; served[0] = configuration }
    :: atomic { !isPaused && awaitsReview[1] -> review(1); awaitsReview[1] = false; isAlive[1] = true; served[1] = configuration }
    :: atomic { !isPaused && !isReady[0] && !awaitsReview[0] && isAlive[0] ->
        isReady[0] = true; isServing[0] = true; handOutKept() }
    :: atomic { !isPaused && !isReady[1] && !awaitsReview[1] && isAlive[1] ->
        isReady[1] = true; isServing[1] = true; handOutKept() }

    /* WorkerPool.evenOut, advanceDraining */
    :: atomic { !isPaused && moves > 0 && isReady[0] && isReady[1] ->
        moves--;
        silence = 0;
        if
        :: tell(0, RELEASE, 0, 0, 0, NONE, 0)
        :: tell(1, RELEASE, 0, 0, 0, NONE, 0)
        fi }

    /* WorkerPool.configure */
    :: atomic { !isPaused && reloads > 0 && isReady[0] && isReady[1] ->
        reloads--;
        silence = 0;
        configuration++;
        tell(0, CONFIGURE, 0, 0, configuration, NONE, 0);
        tell(1, CONFIGURE, 0, 0, configuration, NONE, 0) }
    /* WorkerPool.ping: a worker that has lost its configuration is given it again. */
    :: atomic { !isPaused && isReady[0] && !isServing[0] -> isServing[0] = true; served[0] = configuration }
    :: atomic { !isPaused && isReady[1] && !isServing[1] -> isServing[1] = true; served[1] = configuration }

    /* WorkerSupervisor.close */
    :: atomic { !isPaused && closes > 0 && connectionOfFlow != 0 && isReady[TABLE(connectionOfFlow)] ->
        closes--;
        silence = 0;
        tell(TABLE(connectionOfFlow), CLOSE, connectionOfFlow, 0, 0, NONE, 0) }

    /* Upgrade: pauseListeners, empty; what takes too long is killed. Here the workers are told at once, and finish
       handshakes or not. */
    :: atomic { !isPaused && upgrades > 0 && isReady[0] && isReady[1] && isAlive[0] && isAlive[1] ->
        upgrades--;
        silence = 0;
        isPaused = true;
        tell(0, STOP, 0, 0, 0, NONE, 0);
        tell(1, STOP, 0, 0, 0, NONE, 0) }
    :: atomic { isPaused && isAlive[0] && !isKilled[0] -> isKilled[0] = true }
    :: atomic { isPaused && isAlive[1] && !isKilled[1] -> isKilled[1] = true }

    /* The main process dies: workers read the end of their channels behind what is in them (Worker.channelEnded), and
       systemd starts the next one once they have ended. */
    :: atomic { mainDeaths > 0 -> goto death }

    /* Acceptor.handOver, takeOver; or takeBack; or the start after a restart: the connections are adopted at rest, by
       workers that nobody else's are beside. */
    :: atomic { isPaused && released == 0 && (BOTH_HAVE_ENDED || ADOPTS_EARLY) -> goto takeOver }
    fi;
    goto serve;

message:
    atomic {
        if
        /* A dead process reads nothing: its channels are closed, with the sockets in them. */
        :: hasDied -> closeSocket(socket)
        :: !hasDied ->
            if
            /* WorkerPool.count */
            :: what == CLOSED ->
                if
                :: BELONGS(id) -> table = TABLE(id); free(table)
                :: else
                fi
            :: what == PARKED ->
                if
                :: BELONGS(id) -> hasSocket[TABLE(id)] = false
                :: else
                fi
            :: what == WAKE ->
                if
                :: BELONGS(id) -> wish = id
                :: else -> tell(table, RESUME_FAILED, id, 0, 0, NONE, 0)
                fi
            :: what == MISDELIVERED -> offer(listener, type, value)
            :: what == SETUP_LOST ->
                if
                :: flag == configuration -> isServing[table] = false
                :: else
                fi
            :: what == RELEASED ->
                if
                :: !BELONGS(id) -> closeSocket(socket)
                :: BELONGS(id) ->
                    if
#ifdef RELEASED_ALONE_HAD_A_SOCKET
                    /* What comes alone is taken for a connection that had a socket. */
                    :: true ->
#else
                    :: flag ->
#endif
                        hasSocket[TABLE(id)] = false;
                        moving = id;
                        movingSocket = socket;
                        what = NONE; type = NONE; id = 0; socket = 0; flag = 0; value = 0; table = 0;
                        isMainBusy = false;
                        goto move
                    :: !flag -> released = id
                    fi
                fi
            fi
        fi;
        what = NONE; type = NONE; id = 0; socket = 0; flag = 0; value = 0; table = 0;
        isMainBusy = false
    };
    goto serve;

move:
    atomic {
        table = TABLE(moving);
        other = 1 - table;
        if
        :: CAN_MOVE(moving) ->
            /* The worker touches the slot no more. */
            assert(!(isAlive[table] && object[table] == moving));
            /* Not established until the last store. */
            generation[other]++;
            phase[other] = HANDSHAKING
        :: else -> goto giveBack
        fi
    };
    if
    :: atomic { mainDeaths > 0 -> goto death }
    :: atomic { key[other] = key[table]; next[other] = next[table]; random[other] = random[table]; hasLeft[other] = hasLeft[table] }
    fi;
#ifdef ESTABLISHES_BEFORE_THE_END
    phase[other] = ESTABLISHED;
#endif
    if
    :: atomic { mainDeaths > 0 -> goto death }
    :: atomic { phase[table] = ENDED; key[table] = 0; next[table] = 0; random[table] = 0 }
    fi;
    if
    :: atomic { mainDeaths > 0 ->
        /* The connection is lost, so that no two slots ever hold it. */
        hasDiedInMove = (phase[other] != ESTABLISHED);
        goto death }
    :: atomic {
        phase[other] = ESTABLISHED;
        isTaken[other] = true;
        hasSocket[other] = false;
        if
        :: connectionOfFlow == moving -> connectionOfFlow = NUMBER(other, generation[other])
        :: else
        fi;
        phase[table] = FREE; hasLeft[table] = false; isTaken[table] = false; hasSocket[table] = false;
        moving = NUMBER(other, generation[other]) }
    fi;
giveBack:
    atomic {
        table = TABLE(moving);
        if
        :: movingSocket != 0 && BELONGS(moving) && isAlive[table] ->
            tell(table, RESUME, moving, movingSocket, 0, NONE, 0);
            hasSocket[table] = true
        :: movingSocket != 0 && !(BELONGS(moving) && isAlive[table]) -> closeSocket(movingSocket)
        :: movingSocket == 0 && BELONGS(moving) && isAlive[table] -> tell(table, ADOPT, moving, 0, 0, NONE, 0)
        :: movingSocket == 0 && !(BELONGS(moving) && isAlive[table])
        fi;
        moving = 0; movingSocket = 0; other = 0; table = 0
    };
    goto serve;

death:
    atomic {
        mainDeaths--;
        silence = 0;
        closeSocket(movingSocket);
        moving = 0; movingSocket = 0; other = 0; table = 0;
        isPaused = true;
        hasDied = true;
        wish = 0; released = 0; kept = NONE; keptOfMain = 0;
        if :: isAlive[0] && nfull(toWorker[0]) -> toWorker[0]!STOP,0,0,0,NONE,0 :: isAlive[0] && full(toWorker[0]) -> isKilled[0] = true :: !isAlive[0] fi;
        if :: isAlive[1] && nfull(toWorker[1]) -> toWorker[1]!STOP,0,0,0,NONE,0 :: isAlive[1] && full(toWorker[1]) -> isKilled[1] = true :: !isAlive[1] fi
    };
    goto serve;

takeOver:
    atomic {
        connectionOfFlow = 0; recent = 0; recentRandom = 0; wish = 0; kept = NONE; keptOfMain = 0; released = 0;
        awaitsReview[0] = false; awaitsReview[1] = false;
        drain(toWorker[0]);
        drain(toWorker[1]);
        /* Nobody goes on with what others have. */
        assert(object[0] == 0 && object[1] == 0);
        adopt(0);
        adopt(1);
        isAlive[0] = true; isAlive[1] = true;
        isReady[0] = true; isReady[1] = true;
        isServing[0] = true; isServing[1] = true;
        served[0] = configuration; served[1] = configuration;
        hasDied = false;
        isPaused = false
    };
    goto serve
}

/* ---- Properties that concern more than one step ---- */

#ifdef LIVENESS
/* A client that sends again is served in the end. */
ltl isServed { <> (client == DONE) }
#endif
