import LinuxSystem
import Primitives
import TOMLKit

/// The table `[service.NAME.authorize]`, for which the string of its key `server` may stand.
struct AuthorizeSection {
    var path: String?
    private var timeout = Duration.seconds(5)
    private var cache = 10_000
    private var cacheTime = Duration.seconds(300)

    static let schema = Schema<Self> {
        Key(
            "server", \.path, .authorizer, isRequired: { _ in true },
            doc: "The Unix datagram socket of the program that is asked.")
        Key(
            "timeout", \.timeout, .seconds(1...60),
            doc: "How long an answer may take before the client is refused.")
        Key(
            "cache", \.cache, .integer(0...1_000_000, "an integer of answers"),
            doc: "The number of answers that each worker keeps, as long as they say; 0 means none.")
        Key(
            "cache_time", \.cacheTime, .time(1...86_400),
            doc: "The longest time that an answer is kept, whatever it says.")
    }

    /// - Returns: `nil` where nobody is asked.
    func configuration(minimumKeyLength: Int) -> AuthorizeConfiguration? {
        path.map {
            AuthorizeConfiguration(
                path: $0, timeout: timeout, cache: cache, cacheTime: cacheTime, minimumKeyLength: minimumKeyLength)
        }
    }
}

extension ValueType where Value == String {
    /// - Returns: the path of the socket.
    static var authorizer: Self {
        Self(
            scalar: "\"unix:/PATH\", a path of at most \(maximumUnixPathLength) bytes",
            {
                guard let text = $0.string, text.hasPrefix("unix:/") else { return nil }
                let path = String(text.dropFirst("unix:".utf8.count))
                return (2...maximumUnixPathLength).contains(path.utf8.count) ? path : nil
            })
    }
}
