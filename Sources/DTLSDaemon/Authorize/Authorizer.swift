import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// What became of a question who may come in.
enum AuthorizationResult: Int, CaseIterable, Sendable {
    case allowed
    case refused
    /// By an answer that still holds.
    case allowedFromCache
    case refusedFromCache
    /// No answer has come in time.
    case noAnswer
    /// The authorizer's socket is not there, or does not let this process write.
    case unreachable
    /// The answer was none.
    case malformed
    /// Too many questions of the worker waited.
    case busy

    var label: String {
        switch self {
        case .allowed: "allowed"
        case .refused: "refused"
        case .allowedFromCache: "allowed_from_cache"
        case .refusedFromCache: "refused_from_cache"
        case .noAnswer: "no_answer"
        case .unreachable: "unreachable"
        case .malformed: "malformed"
        case .busy: "busy"
        }
    }
}

/// Who a service asks which clients may come in, with the answers that still hold. A reload forgets them.
///
/// Where there is no answer, for whatever reason, the client stays out.
final class Authorizer {
    private let configuration: AuthorizeConfiguration
    private let service: String
    private let link: AuthorizerLink
    private let loop: EventLoop
    private var cache: AnswerCache

    init(_ configuration: AuthorizeConfiguration, of service: String, _ resources: HandlerResources) {
        self.configuration = configuration
        self.service = service
        link = resources.sharedState(AuthorizerLinks.self).link(to: configuration.path)
        loop = resources.loop
        cache = AnswerCache(capacity: configuration.cache)
    }

    /// - Parameter completion: is called once, at once or later.
    func ask(
        _ question: AuthorizationQuestion, of peer: SocketAddress, at local: SocketAddress,
        _ completion: @escaping (AuthorizationAnswer, AuthorizationResult) -> Void
    ) {
        let text = AuthorizationText(service: service, peer: peer, local: local, question: question)
        let key = text.key
        if let answer = cache.answer(to: key, now: loop.now) {
            return completion(answer, answer.isAllowed ? .allowedFromCache : .refusedFromCache)
        }
        link.ask(text.bytes(id:), timeout: configuration.timeout) { [self] outcome in
            let told = answer(outcome, to: key)
            completion(told.answer, told.result)
        }
    }

    private static func text(of duration: Duration) -> String {
        let milliseconds = duration.milliseconds
        return milliseconds.isMultiple(of: 1_000) ? "\(milliseconds / 1_000) s" : "\(milliseconds) ms"
    }

    private func answer(
        _ outcome: AuthorizerLink.Outcome, to key: [UInt8]
    ) -> (answer: AuthorizationAnswer, result: AuthorizationResult) {
        func refused(_ reason: String) -> AuthorizationAnswer { .refused(reason: reason) }
        switch outcome {
        case .verdict(let verdict):
            if case .allowed(let presharedKey?, _) = verdict.answer, presharedKey.count < configuration.minimumKeyLength
            {
                return (
                    refused(
                        "the authorizer has answered with a key of \(counted(presharedKey.count, "byte")); expected"
                            + " \(configuration.minimumKeyLength) or more (minimum_key_bytes)"), .malformed
                )
            }
            let lifetime = min(verdict.lifetime, configuration.cacheTime)
            if lifetime > .zero { cache.keep(verdict.answer, to: key, until: loop.now + lifetime) }
            return (verdict.answer, verdict.answer.isAllowed ? .allowed : .refused)
        case .malformed(let fault):
            return (refused("the authorizer's answer is malformed: \(fault.message)"), .malformed)
        case .noAnswer:
            return (
                refused("the authorizer has not answered within \(Self.text(of: configuration.timeout))"), .noAnswer
            )
        case .unreachable(let error): return (refused("the authorizer cannot be asked: \(error)"), .unreachable)
        case .busy: return (refused("too many questions wait for the authorizer's answer"), .busy)
        }
    }
}

extension AuthorizationAnswer {
    fileprivate var isAllowed: Bool {
        if case .allowed = self { true } else { false }
    }
}
