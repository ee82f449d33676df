module github.com/miosa/miosa

go 1.26
