# Draws what scripts/soak has measured: a .svg beside each .tsv of the working directory.
set datafile separator tab
set datafile missing "?"
set terminal svg size 1100,280 dynamic font "sans-serif,12" background "white"
set key outside right top vertical
set grid
set xlabel "minutes"
set yrange [0:*]
do for [name in "memory descriptors wait others median p99"] {
    if (name eq "median" || name eq "p99") {
        set logscale y
        set yrange [*:*]
    }
    set output name.".svg"
    plot for [column = 2:*] name.".tsv" using 1:column with linespoints pointtype 7 pointsize 0.4 title columnheader(column)
}
