/// Where recently accepted connections are now: in this process, or in a task. Bounded.
struct RecentConnections {
    enum Whereabouts {
        case here(DtlsConnection)
        case task(DtlsTask)
    }

    private struct Entry {
        let number: UInt64
        weak var connection: DtlsConnection?
        weak var task: DtlsTask?
    }

    private var entries: [Entry] = []
    private static let capacity = 512

    mutating func insert(_ number: UInt64, _ place: Whereabouts) {
        entries.removeAll { $0.number == number }
        if entries.count == Self.capacity { entries.removeFirst(Self.capacity / 2) }
        switch place {
        case .here(let connection): entries.append(Entry(number: number, connection: connection))
        case .task(let task): entries.append(Entry(number: number, task: task))
        }
    }

    func whereabouts(of number: UInt64) -> Whereabouts? {
        guard let entry = entries.last(where: { $0.number == number }) else { return nil }
        if let connection = entry.connection { return .here(connection) }
        return entry.task.map { .task($0) }
    }
}
