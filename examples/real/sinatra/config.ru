require 'sinatra/base'

class App < Sinatra::Base
  set :environment, :production

  get('/') { "Hello from Sinatra\n" }
end

run App
