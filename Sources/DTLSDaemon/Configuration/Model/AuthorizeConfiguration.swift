/// `[service.NAME.authorize]`: who is asked whether a client may come in.
struct AuthorizeConfiguration: Codable, Equatable, Sendable {
    /// The path of a Unix datagram socket.
    var path: String
    /// How long an answer may take: 1 to 60 seconds. Then the client is refused.
    var timeout = Duration.seconds(5)
    /// The most answers that each worker keeps; 0: none.
    var cache = 10_000
    /// The longest time that an answer is kept, whatever it says.
    var cacheTime = Duration.seconds(300)
    /// Bytes of the shortest pre-shared key that an answer may have.
    var minimumKeyLength = 16
}
