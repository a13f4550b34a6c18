/// What is counted of one process: of a worker, or of the main process, which some counters are of alone.
enum ProcessCounter: Int, CounterSchema {
    case loopTurnSeconds
    case loopTimerDelaySeconds
    case openDescriptors
    case maximumDescriptors
    case residentMemory
    case openSSLConnections
    case authorizerAnswersDropped
    case availableMemory
    case workersStarted
    case workersDied
    case connectionsLost
    case reloads
    case recordsOfOtherMachines

    static let layout = CounterLayout(allCases.map(\.family))

    /// Whether workers do not have it.
    var isOfMainProcess: Bool { rawValue >= Self.availableMemory.rawValue }

    var family: CounterFamily {
        switch self {
        case .loopTurnSeconds:
            .histogram(
                "loop_turn_duration_seconds",
                "Time that the process has worked in one turn of its event loop: what comes meanwhile waits")
        case .loopTimerDelaySeconds:
            .histogram(
                "loop_timer_delay_seconds", "Time by which timers were late; up to 1 ms is the loop's own rounding")
        case .openDescriptors: .gauge("open_fds", "File descriptors that the process has open")
        case .maximumDescriptors: .gauge("max_fds", "File descriptors that the process may have open")
        case .residentMemory:
            .gauge("resident_memory_bytes", unit: "bytes", "Memory of the process, what it shares included")
        case .openSSLConnections:
            .gauge(
                "openssl_connections",
                "Connections of which OpenSSL has the handshake or the records, which take most of the memory")
        case .authorizerAnswersDropped:
            .counter(
                "authorizer_answers_dropped_total", by: "reason", DroppedAnswer.allCases.map(\.label),
                "Answers of authorizers that were to no question that waits, or none at all, by reason")
        case .availableMemory:
            .gauge(
                "available_memory_bytes", unit: "bytes",
                "Memory that is left to the daemon, by the limits of its control groups and of the machine")
        case .workersStarted: .counter("workers_started_total", "Workers that were started")
        case .workersDied: .counter("workers_died_total", "Workers that have ended without having been told to")
        case .connectionsLost:
            .counter(
                "connections_lost_total",
                "Connections, those in their handshake included, that a worker's death has ended")
        case .reloads:
            .counter(
                "reloads_total", by: "result", ["succeeded", "failed"], "Reloads of the configuration, by result")
        case .recordsOfOtherMachines:
            .counter(
                "records_of_other_machines_total",
                "Records with connection IDs that another machine, or nobody, has made")
        }
    }
}

/// What is counted of one listener.
enum ListenerCounter: Int, CounterSchema {
    case datagramsReceived
    case bytesReceived
    case clientHellos
    case cookiesSent
    case admitted
    case refusals
    case dropped
    case queueDrops

    static let layout = CounterLayout(allCases.map(\.family))

    var family: CounterFamily {
        switch self {
        case .datagramsReceived:
            .counter("listener_datagrams_received_total", "Datagrams that have come to the listener")
        case .bytesReceived:
            .counter(
                "listener_received_bytes_total", unit: "bytes",
                "Bytes of UDP payload in the datagrams that have come to the listener")
        case .clientHellos: .counter("listener_client_hellos_total", "ClientHellos that have come to the listener")
        case .cookiesSent: .counter("listener_cookies_sent_total", "HelloVerifyRequests that the listener has sent")
        case .admitted: .counter("listener_connections_total", "Connections that have begun at the listener")
        case .refusals: .counter("listener_refusals_total", "Clients that were refused a connection at the listener")
        case .dropped:
            .counter("listener_datagrams_dropped_total", "Datagrams that have come to the listener and were dropped")
        case .queueDrops:
            .counter(
                "listener_queue_drops_total",
                "Datagrams that the kernel has dropped, mostly since the listener's receive buffer was full")
        }
    }
}
