/// The name that was most likely meant, for error messages; nil only where there are no names.
///
/// The fewest insertions, deletions, replacements and swaps of neighbours win; upper case, `_` and `-` do not count, so
/// `weight_decay` is nearest to `weightDecay`. Equal distances go to a name with the same first letter, then to the first in
/// alphabetical order.
func nearestName(to name: String, among names: some Collection<String>) -> String? {
    let wanted = plainLetters(name)
    let rated = names.map { name in
        let letters = plainLetters(name)
        return (distance: editDistance(wanted, letters), start: letters.first == wanted.first ? 0 : 1, name: name)
    }
    return rated.min { ($0.distance, $0.start, $0.name) < ($1.distance, $1.start, $1.name) }?.name
}

/// The number of single-letter changes between two words, swaps of neighbours counted as one.
func editDistance(_ a: [Character], _ b: [Character]) -> Int {
    var twoAbove: [Int] = []
    var above = Array(0...b.count)
    for i in a.indices {
        var row = [i + 1]
        for j in b.indices {
            var best = min(above[j + 1] + 1, row[j] + 1, above[j] + (a[i] == b[j] ? 0 : 1))
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { best = min(best, twoAbove[j - 1] + 1) }
            row.append(best)
        }
        (twoAbove, above) = (above, row)
    }
    return above[b.count]
}

private func plainLetters(_ name: String) -> [Character] {
    name.lowercased().filter { $0 != "_" && $0 != "-" }
}
