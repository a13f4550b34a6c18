import DTLSEngine
import DTLSTransport

/// What is counted of one service or client.
///
/// The first ones are those of ``TrafficCounter``, in its order, which connections count themselves; its last two are the
/// first values of ``datagramsDropped``.
enum TargetCounter: Int, CounterSchema {
    case datagramsReceived
    case datagramBytesReceived
    case datagramsSent
    case datagramBytesSent
    case messagesReceived
    case messageBytesReceived
    case messagesSent
    case messageBytesSent
    case flightsRetransmitted
    case datagramsDropped
    case clientHellos
    case cookiesSent
    case refusals
    case handshakes
    case handshakeSeconds
    case sessionLookups
    case sessionInsertions
    case sessionsReplaced
    case ciphers
    case groups
    case alertsSent
    case alertsReceived
    case authorizations
    case connections
    case connectionsOpened
    case connectionsClosed
    case connectionsMoved
    case connectionsTakenOver
    case connectionsParked
    case connectionsWoken
    case addressesUnconfirmed
    case backendErrors
    case backendOutages
    case backendsOut
    case backendsUp
    case backendChecks

    static let layout = CounterLayout(allCases.map(\.family))

    /// Whether workers count it. The others are counted by the main process alone.
    var isOfWorkers: Bool {
        switch self {
        case .clientHellos, .cookiesSent, .connections, .backendChecks: false
        default: true
        }
    }

    var family: CounterFamily {
        switch self {
        case .datagramsReceived:
            .counter("datagrams_received_total", "Datagrams of peers that have reached a connection")
        case .datagramBytesReceived:
            .counter(
                "datagram_received_bytes_total", unit: "bytes",
                "Bytes of UDP payload in the datagrams that have reached a connection")
        case .datagramsSent: .counter("datagrams_sent_total", "Datagrams that connections have sent to their peers")
        case .datagramBytesSent:
            .counter(
                "datagram_sent_bytes_total", unit: "bytes",
                "Bytes of UDP payload in the datagrams that connections have sent")
        case .messagesReceived:
            .counter("messages_received_total", "Messages that were decrypted, those above a limit included")
        case .messageBytesReceived:
            .counter("message_received_bytes_total", unit: "bytes", "Bytes of the messages that were decrypted")
        case .messagesSent: .counter("messages_sent_total", "Messages that were encrypted for a peer")
        case .messageBytesSent:
            .counter("message_sent_bytes_total", unit: "bytes", "Bytes of the messages that were encrypted")
        case .flightsRetransmitted:
            .counter(
                "flights_retransmitted_total",
                "Flights of handshakes that were sent again, since no answer came or the peer asked for them")
        case .datagramsDropped:
            .counter(
                "datagrams_dropped_total", by: "reason", DropReason.allCases.map(\.label),
                "Datagrams and messages that were dropped, by reason")
        case .clientHellos:
            .counter("client_hellos_total", "ClientHellos that have come to the listeners, with and without a cookie")
        case .cookiesSent: .counter("cookies_sent_total", "HelloVerifyRequests that were sent")
        case .refusals:
            .counter(
                "refusals_total", by: "reason", Refusal.allCases.map(\.key),
                "Clients that were refused a connection, by reason; each of their tries counts")
        case .handshakes:
            .counter(
                "handshakes_total", by: "result", HandshakeResult.allCases.map(\.label),
                "Handshakes that have ended, by result; re-handshakes count, too")
        case .handshakeSeconds:
            .histogram(
                "handshake_duration_seconds",
                "Time of the handshakes that have succeeded, from the hello with the valid cookie to the end")
        case .sessionLookups:
            .counter(
                "session_cache_lookups_total", by: "result", SessionLookup.allCases.map(\.label),
                "Clients that have come back with a session ID instead of a ticket, by what was found under it")
        case .sessionInsertions:
            .counter(
                "session_cache_insertions_total", by: "result", SessionInsertion.allCases.map(\.label),
                "Sessions of clients without tickets that were to be kept, by what has become of them")
        case .sessionsReplaced:
            .counter(
                "session_cache_replaced_total",
                "Sessions of clients without tickets that had to make room for one of this service or client")
        case .ciphers:
            .counter(
                "handshake_ciphers_total", by: "cipher", HandshakeLabels.ciphers,
                "Handshakes that have succeeded, by OpenSSL's name of the cipher suite")
        case .groups:
            .counter(
                "handshake_groups_total", by: "group", HandshakeLabels.groups,
                "Full handshakes that have succeeded, by the group of the key exchange")
        case .alertsSent:
            .counter(
                "alerts_sent_total", by: "alert", HandshakeLabels.alerts, "Alerts that were sent to peers, by kind")
        case .alertsReceived:
            .counter(
                "alerts_received_total", by: "alert", HandshakeLabels.alerts,
                "Alerts of peers that were taken for theirs, by kind")
        case .authorizations:
            .counter(
                "authorizations_total", by: "result", AuthorizationResult.allCases.map(\.label),
                "Handshakes in which an authorizer was asked whether the client may come in, by result")
        case .connections:
            .gauge(
                "connections", by: "state", ConnectionState.allCases.map(\.label),
                "Connections that there are, by state")
        case .connectionsOpened:
            .counter("connections_opened_total", "Connections whose first handshake has succeeded")
        case .connectionsClosed:
            .counter(
                "connections_closed_total", by: "reason", CloseReason.allCases.map(\.label),
                "Established connections that have ended, by reason")
        case .connectionsMoved:
            .counter(
                "connections_moved_total", by: "to", ConnectionMove.allCases.map(\.label),
                "Connections that went on at another address of the peer, or in another worker")
        case .connectionsTakenOver:
            .counter(
                "connections_taken_over_total",
                "Connections that have survived the process that served them")
        case .connectionsParked:
            .counter("connections_parked_total", "Times that a connection has given its socket up")
        case .connectionsWoken:
            .counter("connections_woken_total", "Times that a connection without a socket was given one")
        case .addressesUnconfirmed:
            .counter(
                "addresses_unconfirmed_total",
                "Addresses that clients seemed to be at, and at which nobody has answered a challenge")
        case .backendErrors:
            .counter("backend_errors_total", "Errors of sockets to backends: refusals and failed connects")
        case .backendOutages:
            .counter(
                "backend_outages_total",
                "Times that a backend has begun to refuse datagrams, or a client's server to fail handshakes")
        case .backendsOut:
            .members(
                "backends_out",
                "Backends that refuse datagrams to at least one worker; a client's server whose newest handshake has failed"
            )
        case .backendsUp:
            .members(
                "backends_up",
                "Backends that have taken datagrams of at least one worker since it was started, and refuse it none")
        case .backendChecks:
            .counter(
                "backend_checks_total", by: "result", ["passed", "failed"],
                "Health checks of backends that have ended, by result")
        }
    }
}

/// What becomes of a handshake.
enum HandshakeResult: Int, CaseIterable, Sendable {
    /// It has succeeded, with an exchange of keys.
    case full
    /// It has resumed a session.
    case resumed
    /// An alert, or an error of the protocol: nothing in common, for example.
    case failed
    /// The certificate or the pre-shared key of the peer was refused.
    case unverified
    case unknownServerName
    /// The authorizer has refused the client, or has not answered.
    case unauthorized
    case timedOut
    /// The peer has ended it with close_notify.
    case cancelled
    /// The client has begun another one in its place.
    case abandoned
    /// It was ended here: the daemon or its worker ends, or there was no socket to the backend.
    case closedHere
    /// Its worker has died.
    case workerDied

    /// The result of a handshake that has failed.
    init(_ ending: Connection.Ending) {
        switch ending {
        case .handshakeTimedOut, .idle: self = .timedOut
        case .replaced: self = .abandoned
        case .closedHere, .addressTaken, .serviceRemoved, .refused: self = .closedHere
        case .closedByPeer, .failed(.cancelled): self = .cancelled
        case .failed(.unknownServerName): self = .unknownServerName
        case .failed(.unauthorized): self = .unauthorized
        case .failed(let error): self = error.verification == nil ? .failed : .unverified
        }
    }

    var label: String {
        switch self {
        case .full: "full"
        case .resumed: "resumed"
        case .failed: "failed"
        case .unverified: "unverified"
        case .unknownServerName: "unknown_server_name"
        case .unauthorized: "unauthorized"
        case .timedOut: "timed_out"
        case .cancelled: "cancelled"
        case .abandoned: "abandoned"
        case .closedHere: "closed_here"
        case .workerDied: "worker_died"
        }
    }
}

/// What a client finds that comes back with a session ID.
enum SessionLookup: Int, CaseIterable, Sendable {
    case hit
    case miss

    var label: String {
        switch self {
        case .hit: "hit"
        case .miss: "miss"
        }
    }
}

/// What becomes of a session that is to be kept.
enum SessionInsertion: Int, CaseIterable, Sendable {
    case stored
    /// Another worker wrote at the same place.
    case busy
    /// It has a certificate that is too large.
    case tooLarge
    /// OpenSSL had no memory, for example.
    case failed

    init(_ insertion: SessionTable.Insertion) {
        switch insertion {
        case .stored: self = .stored
        case .busy: self = .busy
        case .tooLarge: self = .tooLarge
        case .failed: self = .failed
        }
    }

    var label: String {
        switch self {
        case .stored: "stored"
        case .busy: "busy"
        case .tooLarge: "too_large"
        case .failed: "failed"
        }
    }
}

/// Why a datagram or a message was dropped.
enum DropReason: Int, CaseIterable, Sendable {
    /// ``TrafficCounter/unsent``.
    case unsent
    /// ``TrafficCounter/tooLarge``.
    case tooLarge
    // TrafficExcess, in its order.
    case largestDatagram
    case datagramsPerSecond
    case bytesPerSecond
    /// It came to a listener for a connection, and its peer has not sealed it; or it is a copy.
    case forged
    /// A ClientHello that contradicts itself.
    case malformedHello
    /// A copy of the ClientHello that its client was just admitted with.
    case repeatedHello
    /// A ClientHello whose cookie is not valid, of so many that they are not answered.
    case wrongCookie
    /// A protected record of a connection that is not here.
    case noConnection
    /// It is no record of DTLS, or cannot be answered.
    case unrelated
    /// A record with a connection ID, from a network that has sent many forged ones.
    case forgedLimit
    /// A tunnel had no connection to its server, and no room for it to wait.
    case noServer
    /// A tunnel's local sender does not take it.
    case sender
    /// The backend, or the program, does not take datagrams fast enough.
    case backendBusy
    /// The backend refuses datagrams, or there is no socket to it.
    case backendRefused
    /// The backend, or the program, has sent more than a message holds.
    case backendTooLarge
    /// A connection without a socket has got none for what its backend has sent.
    case noSocket
    /// The log, or a file of it, has not taken it.
    case log

    var label: String {
        switch self {
        case .unsent: "unsent"
        case .tooLarge: "too_large"
        case .largestDatagram: TrafficExcess.largestDatagram.key
        case .datagramsPerSecond: TrafficExcess.datagramsPerSecond.key
        case .bytesPerSecond: TrafficExcess.bytesPerSecond.key
        case .forged: "forged"
        case .malformedHello: "malformed_hello"
        case .repeatedHello: "repeated_hello"
        case .wrongCookie: "wrong_cookie"
        case .noConnection: "no_connection"
        case .unrelated: "unrelated"
        case .forgedLimit: "forged_limit"
        case .noServer: "no_server"
        case .sender: "sender"
        case .backendBusy: "backend_busy"
        case .backendRefused: "backend_refused"
        case .backendTooLarge: "backend_too_large"
        case .noSocket: "no_socket"
        case .log: "log"
        }
    }

    init(_ excess: TrafficExcess) {
        switch excess {
        case .largestDatagram: self = .largestDatagram
        case .datagramsPerSecond: self = .datagramsPerSecond
        case .bytesPerSecond: self = .bytesPerSecond
        }
    }
}

/// Why an established connection has ended.
enum CloseReason: Int, CaseIterable, Sendable {
    case peer
    /// The daemon or its worker ends, its handler has closed it, or an operator has.
    case here
    case idle
    /// The peer has begun a new handshake.
    case replaced
    /// Another peer has its address.
    case addressTaken
    /// A fatal alert, or an error of the protocol.
    case failed
    /// Its client may not come in, by what its handshake has shown.
    case refused
    /// It could not be gone on with: its service is gone from the configuration, for example.
    case lost
    /// Its worker has died, and the state of its records was in that process.
    case workerDied

    init(_ ending: Connection.Ending) {
        switch ending {
        case .closedByPeer: self = .peer
        case .closedHere: self = .here
        case .idle: self = .idle
        case .replaced: self = .replaced
        case .addressTaken: self = .addressTaken
        case .serviceRemoved: self = .lost
        case .refused: self = .refused
        case .handshakeTimedOut, .failed: self = .failed
        }
    }

    var label: String {
        switch self {
        case .peer: "peer"
        case .here: "here"
        case .idle: "idle"
        case .replaced: "replaced"
        case .addressTaken: "address_taken"
        case .failed: "failed"
        case .refused: "refused"
        case .lost: "lost"
        case .workerDied: "worker_died"
        }
    }
}

/// What a connection is at present, as the main process knows it.
enum ConnectionState: Int, CaseIterable, Sendable {
    case handshaking
    /// It has a socket.
    case open
    /// It has none, and waits for its peer.
    case parked

    var label: String {
        switch self {
        case .handshaking: "handshaking"
        case .open: "open"
        case .parked: "parked"
        }
    }
}

/// Where a connection has moved to.
enum ConnectionMove: Int, CaseIterable, Sendable {
    /// Its peer, or this side, is at another address.
    case address
    /// Another worker serves it.
    case worker

    var label: String {
        switch self {
        case .address: "address"
        case .worker: "worker"
        }
    }
}
